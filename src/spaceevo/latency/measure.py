"""Measuring ONNX models in ONNX Runtime: one thread, batch 1, CPU time of that thread, minimum of shuffled repeats."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import onnxruntime

CLOCK = "time.thread_time_ns"
MIN_TIMING_NS = 200_000
"""One timing lasts at least this long, far above the clock's resolution."""


class _Timed(NamedTuple):
    session: onnxruntime.InferenceSession
    feed: dict[str, np.ndarray]
    loops: int

    def run_ns(self, loops: int) -> float:
        """CPU time of one inference, mean over `loops`."""
        started = time.thread_time_ns()
        for _ in range(loops):
            self.session.run(None, self.feed)
        return (time.thread_time_ns() - started) / loops


def session_of(model: bytes, optimize: bool = True) -> onnxruntime.InferenceSession:
    """A CPU session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _prepare(model: bytes) -> _Timed:
    session = session_of(model)
    rng = np.random.default_rng(0)
    feed = {
        value.name: rng.standard_normal([n if isinstance(n, int) else 1 for n in value.shape]).astype(np.float32)
        for value in session.get_inputs()
    }
    timed = _Timed(session, feed, 1)
    timed.run_ns(3)
    return timed._replace(loops=max(1, int(MIN_TIMING_NS / max(1.0, timed.run_ns(5)))))


def measure(
    models: Mapping[str, bytes],
    repeats: int = 10,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    group: int = 64,
) -> dict[str, float]:
    """Latency in ms of each ONNX model.

    Args:
        models: name → serialised model.
        repeats: timings of each; the least counts.
        seed: order of the timings.
        on_progress: called with (done, total) models.
        group: models held in memory, and shuffled together, at a time.
    """
    rng, latency_ms = Random(seed), dict[str, float]()
    for names in (list(models)[i : i + group] for i in range(0, len(models), group)):
        timed = {name: _prepare(models[name]) for name in names}
        order = [name for name in names for _ in range(repeats)]
        rng.shuffle(order)
        for name in order:
            ns = timed[name].run_ns(timed[name].loops)
            latency_ms[name] = min(latency_ms.get(name, float("inf")), ns / 1e6)
        if on_progress is not None:
            on_progress(len(latency_ms), len(models))
    return latency_ms


def machine_name() -> str:
    """Processor of this machine."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def provenance(platform_name: str) -> dict[str, str]:
    """Where and how a measurement was made."""
    return {
        "platform": platform_name,
        "machine": machine_name(),
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "threads": "1",
        "clock": CLOCK,
        "date": time.strftime("%Y-%m-%d"),
    }
