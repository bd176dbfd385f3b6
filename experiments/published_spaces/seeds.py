"""Both searches from five seeds, each under its own draws: `python experiments/published_spaces/seeds.py <folder>`."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from spaceevo.search.evolution import AgeingEvolution, LocalSearch, evolve
from spaceevo.search.problems import SpaceProblem
from spaceevo.search.quality import QualityScorer

STUDIES = {"onnxw": [10.0], "mobilew": [15.0, 20.0]}
FIXED_MS = 0.5


def main() -> None:
    """Print a line per search."""
    for name, constraints in STUDIES.items():
        for seed in range(5):
            scorer = QualityScorer(Path(sys.argv[1]) / name, name, constraints, FIXED_MS, seed=seed)
            problem = SpaceProblem(scorer.superspace)
            best: dict[str, float] = {}
            for strategy in (LocalSearch(problem), AgeingEvolution(problem)):
                cpu, wall = time.process_time(), time.perf_counter()
                state = evolve(strategy, lambda member, s=scorer: s.score(member).score, random.Random(seed))
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                space, score = state.best
                first = list(state.history.values()).index(score) + 1
                best[type(strategy).__name__] = score
                print(
                    f"{name} seed {seed} {type(strategy).__name__:15} {space} {score:.5f} ± "
                    f"{scorer.fresh_scores(space).std(ddof=1):.5f}, found at {first} of {len(state.history)}, "
                    f"{cpu:.2f} s CPU, {wall:.2f} s wall"
                )
            print(f"  evolution reaches {best['AgeingEvolution'] / best['LocalSearch']:.2%} of local search")


if __name__ == "__main__":
    main()
