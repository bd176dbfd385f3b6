"""Measuring models on this machine: one thread, batch 1, CPU time of that thread, least of shuffled repeats."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import NamedTuple, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Model = bytes | Path
"""A model: its bytes or its file."""
CLOCK = "time.thread_time_ns"
TIMING_NS = 200_000
"""One timing lasts at least this long, and a hundred ticks of the clock."""
PATIENCE, SLACK_S = 3.0, 1.0
"""Seconds of waiting for a still moment: for each second measured, and besides."""
NAP_S, STILL = 0.05, 1.2
WARM_UPS = 3
SLOW_NS = 1_000_000
"""A model that takes longer is warm after one timing."""
INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
"""Instruction sets that decide how fast integers are multiplied."""


class Timing(NamedTuple):
    """Latency of one model.

    Attributes:
        latency_ms: the least of its timings.
        dispersion: their median over the least; far above 1 where the machine was busy.
    """

    latency_ms: float
    dispersion: float


class Runner(Protocol):
    """A model that is loaded and has its input."""

    def run(self) -> object:
        """One inference in the calling thread."""
        ...


class OrtRunner:
    """A model in ONNX Runtime with a random input."""

    def __init__(self, model: Model) -> None:
        self.session = session_of(model)
        rng = np.random.default_rng(0)
        self.feed: dict[str, NDArray[np.generic]] = {}
        for value in self.session.get_inputs():
            shape = [size if isinstance(size, int) else 1 for size in value.shape]
            is_integer = value.type == "tensor(uint8)"
            self.feed[value.name] = (
                rng.integers(0, 256, shape, np.uint8) if is_integer else rng.standard_normal(shape, np.float32)
            )

    def run(self) -> object:
        """One inference."""
        return self.session.run(None, self.feed)


class _Clocked:
    """A runner with the number of inferences that make one timing."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.loops = 1
        once_ns = self.time_ns()
        if once_ns < SLOW_NS:
            once_ns = min(once_ns, *(self.time_ns() for _ in range(1, WARM_UPS)))
        least_ns = max(TIMING_NS, 100e9 * time.get_clock_info("thread_time").resolution)
        self.loops = math.ceil(least_ns / max(1.0, once_ns))

    def time_ns(self) -> float:
        """CPU time of one inference, mean over `loops`, after one that brings the model's data near."""
        self.runner.run()
        started = time.thread_time_ns()
        for _ in range(self.loops):
            self.runner.run()
        return (time.thread_time_ns() - started) / self.loops


class Stillness:
    """Waits for moments in which nothing else slows this core down, such as another program on its twin.

    A small product of matrices takes longer then, by half on shared cores, as models do; what else runs comes and goes
    within seconds. Waiting costs no CPU time. It ends when, in all, too much of it was done.

    Args:
        patience: seconds waited for each second measured, at most.
        slack_s: seconds that may be waited besides.
    """

    def __init__(self, patience: float | None = None, slack_s: float | None = None) -> None:
        self.patience = PATIENCE if patience is None else patience
        self.slack_s = SLACK_S if slack_s is None else slack_s
        self.factor = np.random.default_rng(0).random((64, 64), np.float32)
        self.least_ns = min(self._probe_ns() for _ in range(100))
        self.started, self.waited_s = time.monotonic(), 0.0

    def wait(self) -> None:
        """Return at a still moment, or when out of patience."""
        while not self.is_still() and self.waited_s < self.slack_s + self.patience * self._measured_s():
            time.sleep(NAP_S)
            self.waited_s += NAP_S

    def is_still(self) -> bool:
        """Whether the core runs about as fast as it ever did."""
        now_ns = min(self._probe_ns() for _ in range(2))
        self.least_ns = min(self.least_ns, now_ns)
        return now_ns < STILL * self.least_ns

    def _measured_s(self) -> float:
        return time.monotonic() - self.started - self.waited_s

    def _probe_ns(self) -> int:
        started = time.thread_time_ns()
        for _ in range(4):
            self.factor @ self.factor
        return time.thread_time_ns() - started


def session_of(
    model: Model, *, optimize: bool = True, optimized_file: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session of one thread on the CPU whose integer arithmetic is exact.

    Args:
        model: the file or its bytes.
        optimize: whether operators may be fused.
        optimized_file: where to leave the fused graph, if anywhere.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized_file is not None:
        options.optimized_model_filepath = str(optimized_file)
    if not has_vnni():
        # Without VNNI, x86 kernels for uint8 × int8 cut sums of two products off at 16 bits; this takes uint8 × uint8.
        options.add_session_config_entry("session.x64quantprecision", "1")
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def time_models(
    models: Mapping[str, Model],
    repeats: int = 10,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    group: int = 64,
    load: Callable[[Model], Runner] = OrtRunner,
) -> dict[str, Timing]:
    """Time models side by side.

    Args:
        models: name → model; looked up once each, so that a lazy mapping need not hold them all.
        repeats: timings of each.
        seed: of the order of the timings.
        on_progress: called with (done, total) models after each group.
        group: models held in memory, and shuffled together, at a time.
        load: makes a model ready to run, in ONNX Runtime unless told otherwise.
    """
    names, rng, timings, stillness = list(models), Random(seed), dict[str, Timing](), Stillness()
    for start in range(0, len(names), group):
        runners = {name: _Clocked(load(models[name])) for name in names[start : start + group]}
        timings.update(_time_group(runners, repeats, rng, stillness))
        if on_progress is not None:
            on_progress(len(timings), len(names))
    return timings


def _time_group(
    runners: Mapping[str, _Clocked], repeats: int, rng: Random, stillness: Stillness
) -> Iterator[tuple[str, Timing]]:
    taken: dict[str, list[float]] = {name: [] for name in runners}
    order = [name for name in runners for _ in range(repeats)]
    rng.shuffle(order)
    for name in order:
        stillness.wait()
        taken[name].append(runners[name].time_ns())
    for name, times_ns in taken.items():
        least = min(times_ns)
        yield name, Timing(least / 1e6, statistics.median(times_ns) / least)


def measure(
    models: Mapping[str, Model],
    repeats: int = 10,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    group: int = 64,
) -> dict[str, float]:
    """Latency in ms of each of several ONNX models; arguments as `time_models`."""
    timings = time_models(models, repeats, seed=seed, on_progress=on_progress, group=group)
    return {name: timing.latency_ms for name, timing in timings.items()}


@cache
def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor; empty elsewhere."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    first, _, _ = file.read_text(encoding="utf-8").partition("\n\n")
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def instruction_sets() -> list[str]:
    """Which of `INSTRUCTIONS` this processor says it has."""
    flags = (_cpuinfo().get("flags") or _cpuinfo().get("Features") or "").split()
    return [name for name in INSTRUCTIONS if name in flags]


def has_vnni() -> bool:
    """Whether the processor is known to have VNNI: exact and fast products of uint8 and int8."""
    return any("vnni" in flag for flag in _cpuinfo().get("flags", "").split())


def machine_name() -> str:
    """Processor of this machine and what multiplies its integers, e.g. `AMD EPYC 7763, without VNNI`."""
    name = _cpuinfo().get("model name") or platform.processor() or platform.machine()
    if "flags" not in _cpuinfo():
        return name
    if not has_vnni():
        return f"{name}, without VNNI"
    # Runtimes multiply in AMX tiles where there are some, several times faster: another machine.
    return f"{name}, with VNNI {'and' if 'amx_int8' in instruction_sets() else 'but without'} AMX"


def provenance(platform_name: str, package: str = "onnxruntime") -> dict[str, str]:
    """Where and how measurements of today are made: what a `LatencyTable` keeps beside them.

    Args:
        platform_name: name of the platform.
        package: the runtime's.
    """
    return {
        "platform": platform_name,
        "machine": machine_name(),
        "instructions": " ".join(instruction_sets()) or "unknown",
        "runtime": package,
        "version": version(package),
        "threads": "1",
        "clock": CLOCK,
        "date": date.today().isoformat(),
    }
