"""The search of a front: its parts against brute force, what it proposes, and that it finds a known front."""

from collections.abc import Iterable
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from spaceevo.errors import ConfigError, ConstraintError
from spaceevo.search.evolution import evolve
from spaceevo.search.front import (
    FrontEvolution,
    Staircase,
    crowding,
    evenly,
    front,
    predict_scores,
    ranks,
    survival_order,
)
from spaceevo.search.problems import SubnetProblem
from spaceevo.space.cost import subnet_cost
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import sample_subnet

MEMBER = parse_space("digits-012-110")


def cost(spec: SubnetSpec) -> float:
    return subnet_cost(MEMBER, spec).mmacs


def score(spec: SubnetSpec) -> float:
    """Rises with kernels and depth, which cost; widths cost and bring nothing."""
    return sum(block.kernel for stage in spec.stages for block in stage) + spec.resolution / 8


def problem(low: float = 0.0, high: float = 9.0) -> SubnetProblem:
    return SubnetProblem(MEMBER, lambda spec: low <= cost(spec) <= high, f"MMACs in [{low:g}, {high:g}]", cost)


def points(seed: int, count: int = 60) -> list[tuple[float, float]]:
    rng = Random(seed)
    return [(float(rng.randrange(12)), float(rng.randrange(12))) for _ in range(count)]


def peeled(values: list[tuple[float, float]]) -> list[int]:
    """Ranks by definition: take the non-dominated away, again and again; a point equal to an earlier one is worse."""

    def beats(i: int, j: int) -> bool:
        (c, s), (d, t) = values[i], values[j]
        return c <= d and s >= t and ((c, s) != (d, t) or i < j)

    found, left, rank = [0] * len(values), set(range(len(values))), 0
    while left:
        best = {j for j in left if not any(beats(i, j) for i in left if i != j)}
        for index in best:
            found[index] = rank
        left -= best
        rank += 1
    return found


@pytest.mark.parametrize("seed", range(20))
def test_ranks_are_those_of_peeling(seed: int) -> None:
    values = points(seed)
    assert ranks(values) == peeled(values)


@pytest.mark.parametrize("seed", range(5))
def test_front_and_staircase_against_brute_force(seed: int) -> None:
    values = points(seed)
    steps = [values[index] for index in front(values)]
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(steps))
    stairs = Staircase(values)
    for limit in np.arange(-0.5, 13, 0.5):
        within = [s for c, s in values if c <= limit]
        assert stairs(limit) == (max(within) if within else None)


def test_crowding_by_hand() -> None:
    assert crowding([(0.0, 0.0), (1.0, 6.0), (4.0, 8.0), (10.0, 10.0)]) == pytest.approx(
        [float("inf"), 0.4 + 0.8, 0.9 + 0.4, float("inf")]
    )
    assert crowding([(1.0, 1.0)]) == [float("inf")]


def test_the_loneliest_of_a_front_survive() -> None:
    values = [(0.0, 0.0), (1.0, 5.0), (1.1, 5.1), (1.2, 5.2), (5.0, 9.0), (5.0, 1.0)]
    assert survival_order(values) == [0, 4, 3, 1, 2, 5]


def test_even_steps_of_cost() -> None:
    costs = [0.0, 0.1, 0.2, 4.9, 5.0, 9.0, 10.0]
    assert evenly("abcdefg", costs, 3) == ["a", "e", "g"]
    assert evenly("abcdefg", costs, 99) == list("abcdefg")
    assert evenly("abcdefg", costs, 1) == ["a"]


def test_the_first_population_spans_the_range() -> None:
    low, high = cost(MEMBER.smallest), cost(MEMBER.largest)
    first = FrontEvolution(problem(), population=40, generations=1)
    evaluated = [cost(spec) for spec in evolve(first, score, Random(0)).history]
    costs = sorted(evaluated)
    assert evaluated[:10] == costs[::4]  # the first quarter spans it too, and tells how long the others will take
    assert (costs[0], costs[-1]) == (low, high)
    assert max(b - a for a, b in pairwise(costs)) < 4 * (high - low) / 40
    uniform = sorted(cost(sample_subnet(MEMBER, Random(seed))) for seed in range(40))
    assert max(b - a for a, b in pairwise(costs)) < uniform[0] - low  # which uniform draws leave out altogether


def test_only_feasible_and_new_subnets_are_evaluated() -> None:
    seen: list[SubnetSpec] = []

    def evaluate(spec: SubnetSpec) -> float:
        seen.append(spec)
        return score(spec)

    strategy = FrontEvolution(problem(0.5, 1.0), population=12, generations=6, children=9)
    state = evolve(strategy, evaluate, Random(0))
    assert len(seen) == len(set(seen)) == len(state.history) == strategy.total == 12 + 5 * 9
    assert all(0.5 <= cost(spec) <= 1.0 for spec in seen)


def volume(values: list[tuple[float, float]], high: float) -> float:
    """Area between the front and the least score, up to cost `high`."""
    steps, least = [*(values[index] for index in front(values)), (high, 0.0)], score(MEMBER.smallest)
    return sum((s - least) * (d - c) for (c, s), (d, _) in pairwise(steps))


@pytest.mark.parametrize("screened", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_it_beats_as_many_random_subnets(screened: int) -> None:
    member = parse_space("mobilew-122222-155400")

    def mmacs(spec: SubnetSpec) -> float:
        return subnet_cost(member, spec).mmacs

    def area(specs: Iterable[SubnetSpec]) -> float:
        return volume([(mmacs(spec), score(spec)) for spec in specs], mmacs(member.largest))

    for seed in range(2):
        strategy = FrontEvolution(SubnetProblem(member, cost=mmacs), 24, 8, 24, screened)
        found = evolve(strategy, score, Random(seed)).history
        rng = Random(seed)
        assert area(found) > 1.1 * area(sample_subnet(member, rng) for _ in range(strategy.total))


def test_screening_brings_the_front_sooner() -> None:
    high = cost(MEMBER.largest)

    def reached(screened: int, seed: int) -> float:
        strategy = FrontEvolution(problem(), population=16, generations=4, children=16, screened=screened)
        return volume([(cost(s), v) for s, v in evolve(strategy, score, Random(seed)).history.items()], high)

    assert sum(reached(8, seed) for seed in range(4)) > sum(reached(1, seed) for seed in range(4))


def test_prediction_recovers_a_linear_score() -> None:
    specs = [sample_subnet(MEMBER, Random(seed)) for seed in range(400)]
    known = [(spec, score(spec)) for spec in specs[:300]]
    predicted = predict_scores(specs[300:], known, penalty=1e-6)
    assert predicted == pytest.approx([score(spec) for spec in specs[300:]], abs=1e-3)


def test_prediction_of_few_evaluations_is_near_their_mean() -> None:
    specs = [sample_subnet(MEMBER, Random(seed)) for seed in range(3)]
    (predicted,) = predict_scores(specs[2:], [(specs[0], 50.0), (specs[1], 52.0)])
    assert 50 <= predicted <= 52


def test_an_empty_range_names_the_requirement() -> None:
    with pytest.raises(ConstraintError, match=r"none of 20 .* meets: MMACs in \[0, 0.001\]"):
        evolve(FrontEvolution(problem(0, 0.001), tries=20), score, Random(0))


def test_a_small_range_is_exhausted_and_ends() -> None:
    least = cost(MEMBER.smallest)
    state = evolve(FrontEvolution(problem(0, least + 1e-9), population=8, tries=50), score, Random(0))
    assert MEMBER.smallest in state.history
    assert all(cost(spec) <= least + 1e-9 for spec in state.history)


@pytest.mark.parametrize("name", ["population", "generations", "children", "screened", "tries"])
def test_settings_must_be_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} = 0"):
        FrontEvolution(problem(), **{name: 0})
