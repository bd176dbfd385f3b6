"""Tells how far one network is from itself in new sessions of ONNX Runtime, under several settings of its memory.

    python experiments/ort_cpu/sessions.py [superspace] [networks] [sessions]

Where a model comes to lie in memory decides its latency; what evens that out lifts every prediction. Sessions of all
settings take turns, each timed once in a still moment. Spread: of a network's latencies over its sessions, the median
and the greatest over their least; `least` compares the least of all sessions with that of the settings as they are.
"""

import statistics
import sys
from random import Random

from spaceevo.runtimes.onnx.runtime import OnnxRuntime, OnnxSession
from spaceevo.runtimes.random_program import random_program
from spaceevo.runtimes.timing import time_models
from spaceevo.space.description import superspace
from spaceevo.space.operators import sample_networks
from spaceevo.space.placement import subnet_blocks

SETTINGS: dict[str, dict[str, object]] = {
    "as it is": {},
    "no arena": {"enable_cpu_mem_arena": False},
    "no pattern": {"enable_mem_pattern": False},
    "neither": {"enable_cpu_mem_arena": False, "enable_mem_pattern": False},
}


def main() -> None:
    """Measure in turns; print a row for each setting."""
    given = sys.argv[1:]
    space, networks, sessions = [*given, *["onnxw", "12", "8"][len(given) :]]
    runtime = OnnxRuntime()
    files = {
        name: runtime.prepare(runtime.write(random_program(subnet_blocks(*network))))
        for name, network in sample_networks(superspace(space), Random(0), int(networks)).items()
    }
    taken: dict[tuple[str, str], list[float]] = {(setting, name): [] for setting in SETTINGS for name in files}
    for number in range(int(sessions)):
        order = list(taken)
        Random(number).shuffle(order)
        for setting, name in order:
            found = time_models(
                {name: (files[name], SETTINGS[setting])}, lambda model: OnnxSession(model[0], **model[1]), 1
            )
            taken[setting, name].append(found[name].latency_ms)
    print("| setting | median over least | greatest over least | least, against as it is |\n|---|---|---|---|")
    for setting in SETTINGS:
        rows = {name: taken[setting, name] for name in files}
        spread = [statistics.median([f(ms) / min(ms) for ms in rows.values()]) for f in (statistics.median, max)]
        against = statistics.median([min(ms) / min(taken["as it is", name]) for name, ms in rows.items()])
        print(f"| {setting} | {spread[0]:.3f} | {spread[1]:.3f} | {against:.3f} |", flush=True)


if __name__ == "__main__":
    main()
