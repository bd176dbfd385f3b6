"""Evaluating many subnets: the figures of `subnet_top1`, and stopping that never changes what is on a front."""

from math import comb
from random import Random

import pytest
import torch

from spaceevo.errors import ConfigError
from spaceevo.nn.evaluate import SubnetEvaluator, subnet_top1, upper_share
from spaceevo.space.description import parse_space
from tests.nn.conftest import Make, pictures

MEMBER = parse_space("digits-012-010")


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(pictures(30, 32), torch.randint(0, 3, (30,))) for _ in range(2)]


@pytest.mark.parametrize("chunk", [7, pytest.param(64, marks=pytest.mark.slow)])
def test_top1_is_that_of_one_network(grown: Make, batches: list, chunk: int) -> None:  # type: ignore[type-arg]
    supernet, calibration = grown(MEMBER), [pictures(16, 32), pictures(16, 32)]
    evaluator = SubnetEvaluator(supernet, calibration, batches, chunk=chunk)
    for seed in range(3):
        spec = supernet.sample(Random(seed))
        evaluation = evaluator.judge(evaluator(spec))
        assert evaluation is not None
        assert evaluation.top1 == pytest.approx(subnet_top1(supernet, spec, calibration, batches))
        assert (evaluation.images, evaluation.stopped) == (32 + 60, False)


@pytest.mark.parametrize("size", [7, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 16, 25, 60))])
def test_the_loaders_batches_change_nothing(grown: Make, batches: list, size: int) -> None:  # type: ignore[type-arg]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    cut = list(zip(torch.split(images, size), torch.split(labels, size), strict=True))
    asked = [(MEMBER.largest, None), (MEMBER.smallest, 30.0), (MEMBER.largest, 101.0)]
    supernet, calibration = grown(MEMBER), [pictures(16, 32)]
    expected, found = (SubnetEvaluator(supernet, calibration, given, chunk=16, stop_z=1.0) for given in (batches, cut))
    assert [len(part) for _, part in found.chunks] == [16, 16, 16, 12]
    assert torch.equal(torch.cat([part for part, _ in found.chunks]), images)
    assert [found(spec, below) for spec, below in asked] == [expected(spec, below) for spec, below in asked]


def test_a_hopeless_subnet_stops(grown: Make, batches: list) -> None:  # type: ignore[type-arg]
    evaluator = SubnetEvaluator(grown(MEMBER), [pictures(16, 32)], batches, chunk=10)
    counts = evaluator(MEMBER.smallest, hopeless_below=101.0)
    assert len(counts) == 1
    evaluation = evaluator.judge(counts, 101.0)
    assert evaluation is not None
    assert (evaluation.images, evaluation.stopped) == (16 + 10, True)
    assert len(evaluator(MEMBER.smallest, hopeless_below=0.0)) == 6
    evaluator.stop_z = None
    assert len(evaluator(MEMBER.smallest, hopeless_below=101.0)) == 6


def test_counts_are_judged_as_they_would_have_come(grown: Make, batches: list) -> None:  # type: ignore[type-arg]
    evaluator = SubnetEvaluator(grown(MEMBER), [pictures(16, 32)], batches, chunk=6, stop_z=1.0)
    whole, ends = evaluator(MEMBER.smallest), set()
    for below in range(0, 101, 5):
        stopped = evaluator(MEMBER.smallest, below)
        ends.add(len(stopped))
        assert stopped == whole[: len(stopped)]
        assert evaluator.judge(whole, below) == evaluator.judge(stopped, below)
    assert len(ends) > 3
    assert evaluator.judge(whole[:-1]) is None


def test_stopping_needs_a_positive_z(grown: Make, batches: list) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match="stop_z = 0"):
        SubnetEvaluator(grown(MEMBER), [], batches, stop_z=0)


def test_the_bound_fails_as_rarely_as_it_says() -> None:
    """Drawn without replacement: how often the bound from `seen` images lies below the true share, added up exactly."""
    total, z = 250, 3.0
    for correct in (125, 200, 240, 247):
        for seen in (50, 64, 128, 192, 249):
            failed = sum(
                comb(correct, c) * comb(total - correct, seen - c)
                for c in range(max(0, seen - total + correct), min(seen, correct) + 1)
                if upper_share(c, seen, total, z) < correct / total - 1e-12
            )
            assert failed / comb(total, seen) < 0.01


def test_the_bound_is_the_share_at_the_end_and_never_above_the_possible() -> None:
    assert upper_share(30, 40, 40, 3.0) == pytest.approx(0.75)
    assert upper_share(0, 39, 40, 3.0) <= 1 / 40
    assert upper_share(10, 10, 40, 3.0) == 1.0
