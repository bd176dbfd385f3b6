"""A search that is killed, at any moment, and run again ends as the undisturbed one."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from spaceevo.collectives.sharing import Ranks
from spaceevo.nn.evaluate import Evaluation
from spaceevo.search.evolution import SearchState, evolve
from spaceevo.search.front import FrontEvolution, Staircase
from spaceevo.search.problems import SubnetProblem
from spaceevo.space.cost import subnet_cost
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.stages.fitness import Fitness

MEMBER = parse_space("digits-012-110")
SIZES = (10, 10, 5)


class Killed(BaseException):
    pass


class Stub:
    """Stands for a supernet: correct answers follow from the subnet; dies after so many evaluations."""

    def __init__(self, budget: int = 10**9) -> None:
        self.budget, self.calls = budget, 0

    def __call__(self, spec: SubnetSpec, hopeless_below: float | None = None) -> list[int]:
        if self.calls == self.budget:
            raise Killed
        self.calls += 1
        rng = Random(str(spec))
        share = min(0.9, subnet_cost(MEMBER, spec).mmacs / 2)
        counts: list[int] = []
        for size in SIZES:
            counts.append(sum(rng.random() < share for _ in range(size)))
            if self.judge(counts, hopeless_below):
                break
        return counts

    def judge(self, counts: Sequence[int], hopeless_below: float | None = None) -> Evaluation | None:
        """Hopeless when even right answers to all that is left would not do."""
        for number in range(1, len(counts) + 1):
            correct, seen = sum(counts[:number]), sum(SIZES[:number])
            if 100 * (correct + 25 - seen) / 25 < (hopeless_below or 0) or seen == 25:
                return Evaluation(100 * correct / seen, seen, seen < 25)
        return None


def search(fitness: Fitness, seed: int = 0) -> SearchState[SubnetSpec]:
    """As the stage does it."""
    known: dict[SubnetSpec, Evaluation] = {}

    def latency_ms(spec: SubnetSpec) -> float:
        return subnet_cost(MEMBER, spec).mparams

    def on_batch(state: SearchState[SubnetSpec]) -> None:
        stairs = Staircase([(latency_ms(s), e.top1) for s, e in known.items() if not e.stopped])
        fitness.evaluate(state.batch, lambda spec: stairs(latency_ms(spec)), known.__setitem__)

    strategy = FrontEvolution(SubnetProblem(MEMBER, cost=latency_ms), population=16, generations=6, children=10)
    return evolve(strategy, lambda spec: known[spec].top1, Random(seed), on_batch=on_batch)


def fitness(path: Path, stub: Stub) -> Fitness:
    return Fitness(stub, path, Ranks())  # type: ignore[arg-type]


def test_killed_at_ten_moments(tmp_path: Path) -> None:
    whole = Stub()
    expected = search(fitness(tmp_path / "whole.jsonl", whole))
    assert whole.calls == len(expected.history) == 66
    path, rng, calls = tmp_path / "killed.jsonl", Random(3), 0
    for _ in range(10):
        stub = Stub(budget=rng.randrange(1, 7))
        with pytest.raises(Killed):
            search(fitness(path, stub))
        calls += stub.calls
        if rng.random() < 0.5:  # killed while it wrote a line
            with path.open("a") as file:
                file.write('["d1#1#1_k3')
    stub = Stub()
    found = search(fitness(path, stub))
    assert found.to_json() == expected.to_json()
    assert calls + stub.calls == whole.calls  # nothing was evaluated twice
    assert path.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_what_another_search_evaluated_changes_nothing(tmp_path: Path) -> None:
    alone, path = search(fitness(tmp_path / "alone.jsonl", Stub())), tmp_path / "shared.jsonl"
    for seed in (1, 2):
        search(fitness(path, Stub()), seed)
    stub = Stub()
    assert search(fitness(path, stub)).to_json() == alone.to_json()
    assert stub.calls < len(alone.history)


def test_a_finished_search_evaluates_nothing(tmp_path: Path) -> None:
    search(fitness(tmp_path / "log.jsonl", Stub()))
    stub = Stub()
    search(fitness(tmp_path / "log.jsonl", stub))
    assert stub.calls == 0


def test_a_subnet_hopeless_for_one_is_evaluated_whole_for_another(tmp_path: Path) -> None:
    log = fitness(tmp_path / "log.jsonl", Stub())
    spec = MEMBER.smallest
    stopped = log.evaluate([spec], lambda _: 99.0)[spec]
    whole = log.evaluate([spec])[spec]
    assert stopped.stopped
    assert not whole.stopped
    assert whole.images == 25
    assert log.evaluate([spec], lambda _: 99.0)[spec] == stopped
    again = fitness(tmp_path / "log.jsonl", Stub(budget=0))
    assert again.evaluate([spec])[spec] == whole
