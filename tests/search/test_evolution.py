"""The search loop and its strategies: what they propose, when they end, and that a killed search continues."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from spaceevo.errors import CheckpointError, ConfigError, ConstraintError
from spaceevo.search.evolution import (
    AgeingEvolution,
    GenerationalEvolution,
    LocalSearch,
    SearchState,
    Strategy,
    evolve,
)
from spaceevo.search.problems import SpaceProblem, SubnetProblem
from spaceevo.search.quality import QualityScorer
from spaceevo.space.description import parse_space, superspace
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"published data is not at {REFERENCE}")
ONNXW, DIGITS = SpaceProblem(superspace("onnxw")), SpaceProblem(superspace("digits"))
SUBNETS = SubnetProblem(parse_space("onnxw-151122-023231"))


def closeness(member: SpaceMember) -> float:
    """Greatest, 0, where every stage has its last window and the blocks count 0, 1, 2, …; no uniform space has it."""
    last = [stage.windows - 1 for stage in member.superspace.searched]
    blocks = sum(abs(block - wanted % 3) for wanted, block in enumerate(member.blocks))
    return -float(blocks + sum(a - b for a, b in zip(last, member.windows, strict=True)))


def smallness(spec: SubnetSpec) -> float:
    return -float(sum(block.width for stage in spec.stages for block in stage) + spec.resolution)


CASES: list[tuple[Callable[[], Strategy[Any]], Callable[[Any], float]]] = [
    (lambda: AgeingEvolution(ONNXW, population=60, sample=15, total=150), closeness),
    (lambda: GenerationalEvolution(SUBNETS, population=24, generations=5, mutants=6, crossovers=6), smallness),
    (lambda: LocalSearch(ONNXW, total=300), closeness),
]
cases = pytest.mark.parametrize(("make", "score"), CASES, ids=["ageing", "generational", "local"])


class Killed(Exception):
    pass


def same(first: SearchState[Any], second: SearchState[Any]) -> bool:
    return first.to_json() == second.to_json()


@cases
def test_same_seed_same_search(make: Callable[[], Strategy[Any]], score: Callable[[Any], float]) -> None:
    first, second, other = (evolve(make(), score, Random(seed)) for seed in (1, 1, 2))
    assert same(first, second)
    assert list(first.history) != list(other.history)


@cases
def test_killed_search_continues_as_if_nothing_happened(
    make: Callable[[], Strategy[Any]], score: Callable[[Any], float]
) -> None:
    whole = evolve(make(), score, Random(1))
    saved: list[str] = []

    def fragile(item: Any) -> float:
        if budget[0] == 0:
            raise Killed
        budget[0] -= 1
        return score(item)

    evaluations, resume = 0, None
    for step in (1, 26, 40, 1000):
        budget = [step]
        evaluations += min(step, len(whole.history) - evaluations)
        try:
            state = evolve(make(), fragile, Random(1), resume=resume, save=lambda s: saved.append(json.dumps(s)))
        except Killed:
            resume = json.loads(saved[-1])
            assert len(resume["history"]) == evaluations  # nothing is evaluated again
    assert same(state, whole)
    assert state.best == whole.best


@cases
def test_finished_search_stays_finished(make: Callable[[], Strategy[Any]], score: Callable[[Any], float]) -> None:
    saved: list[dict[str, Any]] = []
    whole = evolve(make(), score, Random(1), save=saved.append, save_every=7)
    assert len(saved) == len(whole.history) // 7 + 1
    assert same(evolve(make(), lambda _: pytest.fail("evaluated again"), Random(9), resume=saved[-1]), whole)


@cases
def test_progress_counts_every_evaluation_once(
    make: Callable[[], Strategy[Any]], score: Callable[[Any], float]
) -> None:
    seen, reports = [], []

    def evaluate(item: Any) -> float:
        seen.append(item)
        return score(item)

    strategy = make()
    state = evolve(strategy, evaluate, Random(3), on_evaluation=lambda *report: reports.append(report))
    assert len(set(seen)) == len(seen) == len(state.history) <= strategy.total
    assert [done for done, _, _ in reports] == list(range(1, len(seen) + 1))
    assert {total for _, total, _ in reports} == {strategy.total}
    assert reports[-1][2] == state.best == max(state.history.items(), key=lambda pair: pair[1])
    assert state.best[1] == max(map(score, seen))


def test_ageing_keeps_the_youngest_and_starts_uniform() -> None:
    strategy = AgeingEvolution(ONNXW, population=60, sample=15, total=150)
    state = evolve(strategy, closeness, Random(1))
    assert list(state.history)[:24] == ONNXW.starts()
    assert len(state.history) == 150
    assert state.population == list(state.history)[-60:]
    assert state.best[1] > max(closeness(item) for item in list(state.history)[:60])


def test_ageing_parent_is_the_best_of_the_sample() -> None:
    strategy = AgeingEvolution(ONNXW, population=30, sample=30, total=32)
    history = list(evolve(strategy, closeness, Random(1)).history)
    parent = max(history[:30], key=closeness)
    by_block, by_window = history[30:]
    assert (by_block.windows, by_window.blocks) == (parent.windows, parent.blocks)


@pytest.mark.parametrize("strategy", [AgeingEvolution(DIGITS), LocalSearch(DIGITS)], ids=["ageing", "local"])
def test_small_superspace_is_exhausted_and_ends(strategy: Strategy[SpaceMember]) -> None:
    state = evolve(strategy, closeness, Random(1))
    assert len(state.history) == DIGITS.superspace.size == 216
    assert not state.batch


def test_local_search_climbs_to_the_top() -> None:
    state = evolve(LocalSearch(ONNXW, total=150), closeness, Random(7))
    assert str(state.best[0]) == "onnxw-012012-133333"
    assert state.best[1] == 0.0


def test_generations_keep_the_best_half() -> None:
    strategy = GenerationalEvolution(SUBNETS, population=24, generations=5, mutants=6, crossovers=6)
    state = evolve(strategy, smallness, Random(1))
    assert len(state.history) == strategy.total == 24 + 4 * 12
    assert state.population == sorted(state.history, key=lambda item: -state.history[item])[:12]
    first, last = list(state.history.values())[:24], list(state.history.values())[-12:]
    assert sum(last) / 12 > sum(first) / 24


def test_all_evaluated_subnets_are_feasible() -> None:
    problem = SubnetProblem(SUBNETS.member, lambda spec: spec.resolution <= 176, "resolution at most 176")
    state = evolve(GenerationalEvolution(problem, 16, 3, 4, 4), smallness, Random(2))
    assert len(state.history) == 32
    assert all(item.resolution <= 176 for item in state.history)


def test_crossover_gives_way_to_mutation() -> None:
    class Clones(SubnetProblem):
        """Crossover brings nothing new."""

        def crossover(self, first: SubnetSpec, second: SubnetSpec, rng: Random) -> SubnetSpec:
            assert first != second
            crossed.append(first)
            return first

    crossed: list[SubnetSpec] = []
    state = evolve(GenerationalEvolution(Clones(SUBNETS.member), 8, 2, 0, 3), smallness, Random(1))
    assert len(state.history) == 11
    assert len(crossed) == 3 * 50


def test_no_feasible_subnet_names_the_requirement() -> None:
    problem = SubnetProblem(SUBNETS.member, lambda _: False, "latency_constraint in [1, 2] ms")
    with pytest.raises(ConstraintError, match=r"none of 30 random .* latency_constraint in \[1, 2\] ms"):
        evolve(GenerationalEvolution(problem, tries=30), smallness, Random(0))


def test_few_feasible_subnets_end_the_search() -> None:
    few = {SUBNETS.sample(Random(n)) for n in range(3)}
    problem = SubnetProblem(SUBNETS.member, few.__contains__, "one of three")

    def draw(rng: Random) -> SubnetSpec:
        return rng.choice(sorted(few, key=str))

    object.__setattr__(problem, "sample", draw)
    state = evolve(GenerationalEvolution(problem, tries=50), smallness, Random(0))
    assert set(state.history) == few


@pytest.mark.parametrize("broken", [{}, {"rng": 3}, {"generation": 1, "rng": [3, [1, 2], None]}])
def test_broken_state_is_named(broken: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="search state is broken"):
        evolve(LocalSearch(ONNXW), closeness, Random(0), resume=broken)


def test_state_of_another_problem_is_refused() -> None:
    saved: list[dict[str, Any]] = []
    evolve(LocalSearch(DIGITS, total=5), closeness, Random(0), save=saved.append)
    with pytest.raises(CheckpointError, match="not of superspace onnxw"):
        evolve(LocalSearch(ONNXW), closeness, Random(0), resume=saved[-1])


def test_settings_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="search: sample = 0; allowed: 1 or more"):
        AgeingEvolution(ONNXW, sample=0)
    with pytest.raises(ConfigError, match="population = 0, generations = -1"):
        GenerationalEvolution(SUBNETS, population=0, generations=-1)


def published_scorer(name: str, constraints: list[float], factory: pytest.TempPathFactory) -> QualityScorer:
    # All tests of a session parse the published tables once.
    cache = factory.getbasetemp() / "lut-cache"
    return QualityScorer(REFERENCE / "block_lut" / name, name, constraints, 0.5, cache_dir=cache)


@pytest.mark.slow
@needs_reference
@pytest.mark.parametrize(
    ("name", "constraints", "published", "wanted"),
    [
        ("onnxw", [10.0], "onnxw-151122-023231", 0.397),
        ("mobilew", [15.0, 20.0], "mobilew-112220-154410", 0.773),
    ],
)
def test_local_search_beats_the_published_spaces(
    name: str, constraints: list[float], published: str, wanted: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scorer = published_scorer(name, constraints, tmp_path_factory)
    search = LocalSearch(SpaceProblem(scorer.superspace), total=800)
    best, score = evolve(search, lambda member: scorer.score(member).score, Random(0)).best
    assert score >= wanted
    assert score > scorer.score(published).score + 3 * scorer.fresh_scores(best).std(ddof=1)


@pytest.mark.slow
@needs_reference
def test_evolution_comes_within_a_percent_of_local_search(tmp_path_factory: pytest.TempPathFactory) -> None:
    scorer = published_scorer("mobilew", [15.0, 20.0], tmp_path_factory)
    search = AgeingEvolution(SpaceProblem(scorer.superspace))
    state = evolve(search, lambda member: scorer.score(member).score, Random(0))
    assert len(state.history) == 5000
    assert state.best[1] >= 0.99 * 0.7754
