"""Tells how near one network comes to itself in other sessions: the bound that noise sets to every predictor of it.

    python experiments/ort_cpu/still.py [superspace] [networks] [sessions]

Each network is timed once in each of so many new sessions of ONNX Runtime, without waiting, with a probe of the core
before and after. Then timings are kept by three rules: all, those that began in a still moment, and those that ended in
one, too. A row tells of how many networks two sessions, and the means over the faster half of every second session and
of the others, lie within so many percent of each other. With `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`: in huge pages.
"""

import sys
import time
from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from spaceevo.runtimes.onnx.runtime import OnnxRuntime, OnnxSession
from spaceevo.runtimes.random_program import random_program
from spaceevo.runtimes.timing import Stillness
from spaceevo.space.description import superspace
from spaceevo.space.operators import sample_networks
from spaceevo.space.placement import subnet_blocks

Taken = tuple[float, bool, bool]  # ms, and whether the core was still before and after
RULES: dict[str, Callable[[Taken], bool]] = {
    "any": lambda taken: True,
    "still before": lambda taken: taken[1],
    "still before and after": lambda taken: taken[1] and taken[2],
}


def take(session: OnnxSession, stillness: Stillness) -> Taken:
    """Time one inference after one that makes the session ready and one that brings its data near."""
    session.invoke()
    session.invoke()
    before, started = stillness.is_still(), time.thread_time_ns()
    session.invoke()
    return (time.thread_time_ns() - started) / 1e6, before, stillness.is_still()


def main() -> None:
    """Measure; print a row for each rule."""
    given = sys.argv[1:]
    space, networks, sessions = [*given, *["onnxw", "40", "8"][len(given) :]]
    runtime = OnnxRuntime()
    files = {
        name: runtime.prepare(runtime.write(random_program(subnet_blocks(*network))))
        for name, network in sample_networks(superspace(space), Random(0), int(networks)).items()
    }
    taken: dict[str, list[Taken]] = {name: [] for name in files}
    stillness = Stillness()
    for number in range(int(sessions)):
        for name in Random(number).sample(list(files), len(files)):
            taken[name].append(take(runtime.load(files[name]), stillness))
    print(
        "| timings | kept | one session within ±5 / ±10 % of another | half of them, of the others |\n|---|---|---|---|"
    )
    for rule, counts in RULES.items():
        rows = [kept for row in taken.values() if len(kept := [each[0] for each in row if counts(each)]) > 1]
        share = sum(map(len, rows)) / sum(map(len, taken.values()))
        alike = [_alike(rows, lambda row: row[0]), _alike(rows, _faster_half)]
        print(f"| {rule} | {100 * share:.0f} % | {' | '.join(alike)} |", flush=True)


def _faster_half(row: Sequence[float]) -> float:
    return float(np.mean(sorted(row)[: (len(row) + 1) // 2]))


def _alike(rows: Sequence[Sequence[float]], latency: Callable[[Sequence[float]], float]) -> str:
    if not rows:
        return "–"
    ratios = np.array([latency(row[::2]) / latency(row[1::2]) for row in rows])
    errors = np.abs(ratios / np.median(ratios) - 1)
    return f"{100 * np.mean(errors <= 0.05):.0f} / {100 * np.mean(errors <= 0.1):.0f}"


if __name__ == "__main__":
    main()
