"""How fast the Q-T score is, and that it is the one of its definition.

    python benchmarks/space_score.py [folder [space …]]

`folder` holds the published look-up tables, `folder/onnxw/*.csv` and `folder/mobilew/*.csv`; without it, tables of the
same size are made up. With spaces, only those are compared. The plain implementation follows the definition word for
word: 100,000 fresh draws, a resolution for each 500, Python lists. Both score the same spaces in the same run, one
after the other. Times are CPU times.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

from spaceevo.search.evolution import AgeingEvolution, LocalSearch, evolve
from spaceevo.search.lut import LutRow, lut_file_name, lut_keys, read_lut_file, write_lut_file
from spaceevo.search.problems import SpaceProblem
from spaceevo.search.quality import QualityScorer
from spaceevo.space.description import superspace
from spaceevo.space.superspace import SpaceMember, Superspace

STUDIES = {
    "onnxw": ([10.0], ["onnxw-151122-023231", "onnxw-121122-133333"]),
    "mobilew": ([15.0, 20.0], ["mobilew-122222-155400", "mobilew-332160-134200", "mobilew-112220-154410"]),
}
FIXED_MS, SAMPLES, GROUP, T, A = 0.5, 100_000, 500, 0.08, 0.01
RANDOM_SPACES, PLAIN_RUNS, EVALUATIONS = 10, 8, 5000
Table = list[tuple[float, float]]


class PlainScorer:
    """The definition in Python lists; tables are read once."""

    def __init__(self, folder: Path, space: Superspace) -> None:
        self.space, self.tables = space, dict[tuple[int, int, int], dict[int, Table]]()
        for key in lut_keys(space):
            rows, stage = read_lut_file(folder / lut_file_name(space, key)), space.searched[key.stage].name
            sizes = {resolution: space.input_hw(stage, resolution) for resolution in space.block_resolutions}
            self.tables[key] = {r: [(x.loss, x.latency_ms) for x in rows if x.hw == hw] for r, hw in sizes.items()}

    def score(self, member: SpaceMember, constraint_ms: float, rng: random.Random) -> tuple[float, float, float]:
        """Score, p and L under one constraint."""
        keys = [(stage, *choice) for stage, choice in enumerate(zip(member.blocks, member.windows, strict=True))]
        good = []
        for _ in range(SAMPLES // GROUP):
            resolution = rng.choice(self.space.block_resolutions)
            drawn = [rng.choices(self.tables[key][resolution], k=GROUP) for key in keys]
            for rows in zip(*drawn, strict=True):
                if sum([row[1] for row in rows]) + FIXED_MS <= constraint_ms:
                    good.append(sum([row[0] for row in rows]))
        p, best = len(good) / SAMPLES + 1e-5, sorted(good)[:50]
        loss = sum(best) / (len(best) + 1e-5) if best else 1e5
        return 1.0 / (max(1.0, (T / p) ** A) * loss), p, loss


def seconds(work: Callable[[], object]) -> float:
    """CPU time of a piece of work, which on an idle machine is its wall time: nothing here uses two threads."""
    started = time.process_time()
    work()
    return time.process_time() - started


def make_tables(folder: Path) -> Path:
    """Tables of the published size and about its figures, at random."""
    rng = random.Random(0)
    for space in map(superspace, STUDIES):
        for key in lut_keys(space):
            sizes = [space.input_hw(space.searched[key.stage].name, r) for r in space.block_resolutions]
            loss, latency = rng.uniform(0.3, 0.5), rng.uniform(1.0, 5.0)
            figures = [(rng.gauss(loss, 0.04), latency * rng.lognormvariate(0.0, 0.6)) for _ in range(1000)]
            rows = [LutRow("3#16#2", 8, rng.choice(sizes), max(x, 0.01), 1, 1, y) for x, y in figures]
            write_lut_file(folder / space.name / lut_file_name(space, key), rows)
    return folder


def compare(folder: Path, name: str, cache: Path, given: list[str]) -> None:
    """Both implementations on the given spaces, or the published and some random ones, a line each."""
    constraints, published = STUDIES[name]
    scorer = QualityScorer(folder / name, name, constraints, FIXED_MS, T, A, SAMPLES, cache_dir=cache)
    plain, problem, rng = (
        PlainScorer(folder / name, scorer.superspace),
        SpaceProblem(scorer.superspace),
        random.Random(1),
    )
    members = [*map(problem.decode, published), *(problem.sample(rng) for _ in range(RANDOM_SPACES))]
    if given:
        members = [problem.decode(text) for text in given if text.startswith(name)]
    print(
        f"\n{name}, {constraints} ms: ours ± its error, mean of {PLAIN_RUNS} plain runs ± its error, joint errors apart"
    )
    plain_s, ours_s = [], []
    for member in members:
        runs = []
        for _ in range(PLAIN_RUNS):
            started = time.process_time()
            runs.append(sum(plain.score(member, constraint, rng)[0] for constraint in constraints))
            plain_s.append((time.process_time() - started) / len(constraints))
        ours_s.append(min(seconds(lambda m=member: scorer.score(m)) for _ in range(5)) / len(constraints))
        quality, ours_error = scorer.score(member), scorer.fresh_scores(member).std(ddof=1)
        mean, error = fmean(runs), stdev(runs) / PLAIN_RUNS**0.5
        apart = (quality.score - mean) / (ours_error**2 + error**2) ** 0.5
        least = min(part.probability for part in quality.per_constraint)
        print(
            f"{member}  p {least:7.3%}  {quality.score:.5f} ± {ours_error:.5f}  {mean:.5f} ± {error:.5f}"
            f"  {apart:+5.2f}  {quality.score / mean - 1:+.3%}"
        )
    print(
        f"plain {1e3 * fmean(plain_s):.1f} ms, ours warm {1e3 * fmean(ours_s):.3f} ms a space and constraint: ", end=""
    )
    print(f"{fmean(plain_s) / fmean(ours_s):.0f} times")


def time_searches(folder: Path, name: str, cache: Path) -> None:
    """Random spaces one after the other, the published evolution and the default search."""
    constraints, _ = STUDIES[name]
    scorer = QualityScorer(folder / name, name, constraints, FIXED_MS, T, A, SAMPLES, cache_dir=cache)
    problem, rng = SpaceProblem(scorer.superspace), random.Random(2)
    members = [problem.sample(rng) for _ in range(EVALUATIONS)]
    alone = seconds(lambda: [scorer.score(member) for member in members])
    print(
        f"{name}: {EVALUATIONS} random spaces {alone:.2f} s, {1e3 * alone / EVALUATIONS / len(constraints):.3f} ms each"
    )
    for strategy in (AgeingEvolution(problem, total=EVALUATIONS), LocalSearch(problem, total=EVALUATIONS)):
        took = seconds(lambda s=strategy: evolve(s, lambda m: scorer.score(m).score, random.Random(0)))
        print(f"{name}: {type(strategy).__name__}, {EVALUATIONS} evaluations {took:.2f} s")


def time_loading_and_searches(folder: Path, cache: Path) -> None:
    """What a user waits for, and how much memory it takes."""
    for state in ("without", "with"):
        load = sum(
            seconds(lambda n=name: QualityScorer(folder / n, n, [15.0], FIXED_MS, cache_dir=cache)) for name in STUDIES
        )
        print(f"342 tables read and drawn from, {state} cache: {load:.2f} s")
    for name in STUDIES:
        time_searches(folder, name, cache)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def main() -> None:
    """Print everything."""
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(temporary) / "cache"
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else make_tables(Path(temporary))
        given = sys.argv[2:]
        if not given:
            time_loading_and_searches(folder, cache)
        for name in STUDIES:
            compare(folder, name, cache, given)


if __name__ == "__main__":
    main()
