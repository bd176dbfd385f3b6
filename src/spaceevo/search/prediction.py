"""Predicted scores of subnets: ridge regression on their choices, from those that have been evaluated."""

from collections.abc import Iterator, Sequence

from spaceevo.space.encoding import SubnetSpec


def predict_scores(
    specs: Sequence[SubnetSpec], known: Sequence[tuple[SubnetSpec, float]], penalty: float = 4.0
) -> list[float]:
    """Predict the scores of subnets from those of `known` ones, linearly in the choices that a subnet makes.

    There is one weight for each depth, each resolution, and each kernel, width and ratio of each block; a choice that
    no known subnet makes counts nothing.

    Args:
        specs: subnets to predict.
        known: evaluated subnets with their scores.
        penalty: of the squared weights, in units of one evaluation.
    """
    # scikit-learn takes a second to import, and not every search predicts
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import Ridge

    vectorizer = DictVectorizer(sparse=False)
    rows = vectorizer.fit_transform([dict(_choices(spec)) for spec, _ in known])
    model = Ridge(alpha=penalty).fit(rows, [score for _, score in known])
    predicted: list[float] = model.predict(vectorizer.transform([dict(_choices(spec)) for spec in specs])).tolist()
    return predicted


def _choices(spec: SubnetSpec) -> Iterator[tuple[str, str]]:
    """A subnet's choices by place; as texts, since numbers would be taken for quantities."""
    yield "resolution", str(spec.resolution)
    for stage, blocks in enumerate(spec.stages):
        yield f"depth {stage}", str(len(blocks))
        for position, block in enumerate(blocks):
            for place, value in zip(("kernel", "width", "expand"), block, strict=True):
                yield f"{place} {stage}.{position}", str(value)
