import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from spaceevo.platforms.base import Platform, TableState
from spaceevo.space.cost import subnet_cost
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import sample_subnet
from spaceevo.space.published import published_model
from spaceevo.space.superspace import SpaceMember
from tests.stages.conftest import RunStage


class Desk(Platform):
    """A platform whose latency is the cost."""

    def __init__(self, name: str, **settings: object) -> None:
        self.name = name

    def table_state(self, entries: int | None = None) -> TableState:
        return {"entries": 0, "digest": ""}

    def subnets_ms(self, member: SpaceMember, specs: Sequence[SubnetSpec]) -> NDArray[np.float64]:
        return np.array([subnet_cost(member, spec).mmacs for spec in specs])


DESK = ("trust=true", f"platform._target_={__name__}.Desk", "platform.name=desk")
DIGITS = ("superspace=digits", "space=digits-012-010", *DESK)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_thousand_random_subnets_and_their_picture(run_stage: RunStage, tmp_path: Path) -> None:
    result = run_stage("predict_latency", *DIGITS, "seed=3")
    member, rng = parse_space("digits-012-010"), Random(3)
    drawn = [sample_subnet(member, rng) for _ in range(1000)]
    expected = sorted(subnet_cost(member, spec).mmacs for spec in drawn)
    found = rows(tmp_path / "runs" / "predict_latency" / "random.csv")
    assert [row["subnet"] for row in found] == [str(spec) for spec in drawn]
    assert result.figures["random_min_latency_ms"] == expected[0]
    assert result.figures["random_p50_latency_ms"] == expected[499]
    assert result.figures["random_p95_latency_ms"] == expected[949]
    assert [row["name"] for row in result.figures["subnets"]] == ["max", "min"]
    assert Path(result.outputs["picture"]).stat().st_size > 5000


def test_listed_subnets_alone(run_stage: RunStage) -> None:
    names = ["SEQnet@vnni-A0", "SEQnet@vnni-A4"]
    result = run_stage("predict_latency", "model=spaceevo@vnni", *DESK, f"subnet=[{','.join(names)},max]")
    models = [published_model(name) for name in names]
    expected = [subnet_cost(model.member, model.spec).mmacs for model in models if model.spec]
    assert [row["latency_ms"] for row in result.figures["subnets"][:2]] == expected
    assert [row["name"] for row in result.figures["subnets"]] == [*names, "max"]
    assert "picture" not in result.outputs
    assert result.figures["latency_ms"] == expected[0]


def test_random_ones_beside_listed_ones_if_asked_for(
    run_stage: RunStage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, object] = {}

    def draw(path: Path, latencies: list[float], marked: dict[str, float], title: str) -> None:
        seen.update(count=len(latencies), marked=list(marked), title=title)
        path.write_bytes(b"")

    drawer: Callable[..., None] = draw
    monkeypatch.setattr("spaceevo.stages.predict_latency.draw_latency_cdf", drawer)
    run_stage("predict_latency", "model=SEQnet@vnni-A1", *DESK, "recipe.predict_latency.random_subnets=7")
    assert seen == {"count": 7, "marked": ["SEQnet@vnni-A1"], "title": "onnxw-151122-023231 on desk"}
