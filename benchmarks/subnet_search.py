"""Own cost of a subnet search: 5,632 evaluations of mobilew subnets, the network replaced by a formula.

Everything else is what `+stage=subnet_search` does: latency predicted from a table of blocks, duplicates and range
checked, every evaluation appended to the file from which a killed search continues. Prints ms of CPU time a candidate:
the search's own, that with the latency predictions it asks for, and the latter in each quarter of the search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from zlib import crc32

from spaceevo.collectives.sharing import Ranks
from spaceevo.latency.predictor import BlockLatency
from spaceevo.latency.table import LatencyTable
from spaceevo.nn.evaluate import Evaluation
from spaceevo.search.evolution import GenerationalEvolution, SearchState, Strategy, evolve
from spaceevo.search.front import FrontEvolution, Staircase
from spaceevo.search.problems import SubnetProblem
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.stages.fitness import Fitness

MEMBER = parse_space("mobilew-122222-155400")
CHUNKS = 16


class AnyBlock(dict[str, float]):
    """A latency table that has every block: its ms follow from its key."""

    def __missing__(self, key: str) -> float:
        """Make up an entry."""
        self[key] = 0.1 + crc32(key.encode()) % 1000 / 1000
        return self[key]

    def __contains__(self, key: object) -> bool:
        return True

    def get(self, key: str, default: object = None) -> float:  # type: ignore[override]
        """The entry, made up where there is none."""
        return self[key]


class Formula:
    """Stands for the supernet: correct answers in each chunk of 64 images."""

    def __init__(self, latency: Latencies) -> None:
        self.latency = latency

    def __call__(self, spec: SubnetSpec, hopeless_below: float | None = None) -> list[int]:
        """Better where slower, with some noise."""
        share = min(0.95, 0.5 + self.latency(spec) / 100 + crc32(str(spec).encode()) % 100 / 1000)
        return [int(64 * share)] * CHUNKS

    def judge(self, counts: Sequence[int], hopeless_below: float | None = None) -> Evaluation | None:
        """Never stops early."""
        return Evaluation(100 * sum(counts) / (64 * CHUNKS), 64 * CHUNKS) if counts else None


class Latencies:
    """Predictions, each made once."""

    def __init__(self) -> None:
        self.table, self.known = BlockLatency(LatencyTable(entries=AnyBlock())), dict[SubnetSpec, float]()
        self.seconds = 0.0

    def __call__(self, spec: SubnetSpec) -> float:
        """Latency in ms."""
        if spec not in self.known:
            started = time.process_time()
            self.known[spec] = self.table.predict(MEMBER, spec)
            self.seconds += time.process_time() - started
        return self.known[spec]


def run(make: Callable[[SubnetProblem], Strategy[SubnetSpec]], low: float, high: float) -> list[float]:
    """CPU ms a candidate: without predicting latencies, with them, and in each quarter of the search."""
    latency, known, marks = Latencies(), dict[SubnetSpec, Evaluation](), [time.process_time()]
    problem = SubnetProblem(MEMBER, lambda spec: low <= latency(spec) <= high, "a range", latency)
    strategy = make(problem)
    with TemporaryDirectory() as folder:
        fitness = Fitness(Formula(latency), Path(folder) / "evaluations.jsonl", Ranks())  # type: ignore[arg-type]

        def on_batch(state: SearchState[SubnetSpec]) -> None:
            stairs = Staircase([(latency(spec), found.top1) for spec, found in known.items()])
            fitness.evaluate(state.batch, lambda spec: stairs(latency(spec)), keep)

        def keep(spec: SubnetSpec, evaluation: Evaluation) -> None:
            known[spec] = evaluation
            if len(known) % (strategy.total // 4) == 0:
                marks.append(time.process_time())

        done = evolve(strategy, lambda spec: known[spec].top1, Random(0), on_batch=on_batch).history
        if len(marks) < 5:
            marks.append(time.process_time())
    assert len(done) == strategy.total, (len(done), strategy.total)
    whole = (marks[-1] - marks[0]) / len(done)
    own = whole - latency.seconds / len(done)
    quarters = [(after - before) / (len(done) / 4) for before, after in zip(marks, marks[1:], strict=False)]
    return [1e3 * seconds for seconds in [own, whole, *quarters]]


def main() -> None:
    """Print one line a search."""
    latency = Latencies()
    low, high = latency(MEMBER.smallest), latency(MEMBER.largest)
    middle = low + 0.4 * (high - low)
    print(f"{'ms a candidate':28}" + "".join(f"{name:>9}" for name in ("own", "all", "1st", "2nd", "3rd", "4th")))
    cases: dict[str, tuple[Callable[[SubnetProblem], Strategy[SubnetSpec]], float]] = {
        "published evolution": (lambda p: GenerationalEvolution(p, 512, 21), middle - 5),
        "front": (lambda p: FrontEvolution(p, 512, 21, 256), 0.0),
        "front, 4 drawn a child": (lambda p: FrontEvolution(p, 512, 21, 256, screened=4), 0.0),
    }
    for name, (make, least) in cases.items():
        print(f"{name:28}" + "".join(f"{ms:9.3f}" for ms in run(make, least, middle)), flush=True)


if __name__ == "__main__":
    main()
