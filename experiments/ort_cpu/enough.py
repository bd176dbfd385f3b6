"""Tells how many timings at still moments are enough for a block: error against many timings, time by the clock.

    python experiments/ort_cpu/enough.py [superspace] [blocks] [rounds]

Blocks are timed up to ten times each by several shares of `timing.ENOUGH` and patience in turn, several rounds; errors
are against the least of up to sixty timings with much patience, taken first. `all` stops none early.
"""

import sys
import time
from random import Random
from statistics import fmean

import numpy as np

from spaceevo.runtimes import timing
from spaceevo.runtimes.onnx.runtime import OnnxRuntime
from spaceevo.space.description import superspace
from spaceevo.space.operators import sample_networks
from spaceevo.space.placement import PlacedBlock, block_key, subnet_blocks
from spaceevo.terminal import print_rows

REPEATS = 10
TRIED = {"all, 20": (1.0, 20.0), "2 of 10, 20": (0.2, 20.0)} | {
    f"4 of 10, {it}": (0.4, it) for it in (3.0, 10.0, 20.0, 40.0)
}
COLUMNS = {
    "tried": "still timings, patience",
    "wall_s": "s by the clock",
    "error": "mean error %",
    "worst": "worst round %",
}


def main() -> None:
    """Measure; print a row for each."""
    given = sys.argv[1:]
    space, count, rounds = [*given, *["digits_wide", "64", "8"][len(given) :]]
    runtime, blocks = OnnxRuntime(), dict[str, PlacedBlock]()
    for network in sample_networks(superspace(space), Random(0), int(count)).values():
        blocks |= {block_key(*block): block for block in subnet_blocks(*network)}
    names = Random(0).sample(sorted(blocks), int(count))
    files = {name: runtime.compile_block(blocks[name], None) for name in names}
    timing.ENOUGH, timing.PATIENCE, timing.SLACK_S = 1.0, 10.0, 20.0
    found = timing.time_models(files, runtime.load, 60)
    least_ms = np.array([found[name].latency_ms for name in names])
    taken: dict[str, list[tuple[float, float]]] = {tried: [] for tried in TRIED}
    timing.SLACK_S = 1.0
    for number in range(int(rounds)):
        for tried, (timing.ENOUGH, timing.PATIENCE) in TRIED.items():
            began = time.monotonic()
            found = timing.time_models(files, runtime.load, REPEATS, seed=number)
            ratios = np.array([found[name].latency_ms for name in names]) / least_ms
            taken[tried].append((time.monotonic() - began, float(np.abs(np.log(ratios)).mean())))
    rows = [
        {
            "tried": tried,
            "wall_s": f"{fmean(wall_s for wall_s, _ in rounds_taken):.1f}",
            "error": f"{100 * fmean(error for _, error in rounds_taken):.1f}",
            "worst": f"{100 * max(error for _, error in rounds_taken):.1f}",
        }
        for tried, rounds_taken in taken.items()
    ]
    print_rows(rows, COLUMNS, f"{len(names)} blocks of {space}, {rounds} rounds")


if __name__ == "__main__":
    main()
