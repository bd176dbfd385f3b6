"""Times loaded models on this machine: batch 1, CPU time of one thread, least of shuffled repeats."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

CLOCK = "time.thread_time_ns"
TIMING_NS = 200_000  # One timing lasts at least this long, and a hundred ticks of the clock
# Seconds of waiting for a still moment, for each second measured, `SLACK_S` besides: with 3 on a disturbed machine
# blocks were off by 29 %, with 10 by 9 and 14 %, with 20 by 3 % (experiments/ort_cpu)
PATIENCE = 20.0
SLACK_S = 1.0
VAIN_S = 60.0  # Waited without a single still moment, after which nothing in this process waits until there is one
FIRST_LOOK_S = 3.0  # How long a process looks at first how fast the core can be; what slows it down comes and goes
NAP_S = 0.05
WAKING = 200  # Probes after a nap, some 10 ms: a core that slept is slow at first, and would never seem still
STILL = 1.2  # The core is still while a probe takes at most so many times the least that one ever took
TRIES = 5  # Timings taken until at one the core was still from before to after, where it comes and goes
# Of the repeats, so many at still moments are enough: on a machine disturbed half of the time 4 of 10 were within
# 3.6 % of the least of 30 on average; all 10 took twice as long, and were within 6 %, since patience ran out
ENOUGH = 0.4
WARM_UPS = 3
SLOW_NS = 1_000_000  # A model that takes longer needs no loops, and is warm after the run before each timing
Model = TypeVar("Model")


class Timing(NamedTuple):
    """Tells the latency of one model: the least of its timings, and their median over it, high on a busy machine."""

    latency_ms: float
    dispersion: float
    was_still: bool = True  # whether one was taken at a still moment; else the latency may be told up to twice too long


class Invocable(Protocol):
    """Can be timed: a model that is loaded and has its input, such as a `runtimes.base.Session`."""

    def invoke(self) -> object:
        """Compute once in the calling thread."""
        ...


class _Clocked:
    """Times a model, over as many inferences as the clock needs to be exact."""

    def __init__(self, model: Invocable) -> None:
        self.model = model
        self.loops = 1
        started = time.thread_time_ns()
        model.invoke()
        once_ns: float = time.thread_time_ns() - started
        if once_ns < SLOW_NS:
            once_ns = min(once_ns, *(self.time_ns() for _ in range(1, WARM_UPS)))
        least_ns = max(TIMING_NS, 100e9 * time.get_clock_info("thread_time").resolution)
        self.loops = math.ceil(least_ns / max(1.0, once_ns))

    def time_ns(self) -> float:
        """Take the CPU time of one inference, mean over `loops`, after one that brings the model's data near."""
        self.model.invoke()
        started = time.thread_time_ns()
        for _ in range(self.loops):
            self.model.invoke()
        taken_ns = time.thread_time_ns() - started
        if taken_ns > 0:
            return taken_ns / self.loops
        self.loops *= 2  # the clock did not move
        return self.time_ns()


class Stillness:
    """Finds moments in which nothing else slows this core down, such as another program on its twin.

    A small product of matrices takes longer then, by half on shared cores, as models do; what else runs comes and goes
    within tenths of a second. Waiting costs little CPU time. It lasts at most `SLACK_S`, and `PATIENCE` seconds a
    second measured; where a core is never still, `VAIN_S` in all.

    How fast the core can be is remembered as long as the process lives: what begins in a busy moment would else take
    that for stillness, and all it measures until then would be half too long.
    """

    least_ns: ClassVar[float] = math.inf  # that a probe ever took
    vain_s: ClassVar[float] = 0.0  # waited since the core was still last

    def __init__(self) -> None:
        self.factor = np.random.default_rng(0).random((64, 64), np.float32)
        looks_s = 0.0 if Stillness.has_looked() else FIRST_LOOK_S
        began = time.monotonic()
        self._note(min(self._probe_ns() for _ in range(100)))
        while time.monotonic() - began < looks_s:
            time.sleep(NAP_S)
            self._note(min(self._probe_ns() for _ in range(WAKING)))
        self.started = time.monotonic()
        self.waited_s = 0.0

    @staticmethod
    def has_looked() -> bool:
        """Tell whether it is known how fast the core can be."""
        return math.isfinite(Stillness.least_ns)

    def time_ns(self, take_ns: Callable[[], float]) -> tuple[float, bool]:
        """Take a timing before and after which the core was still; without such a one, the least of those taken.

        Returns:
            The timing, and whether it is one of the former.
        """
        least_ns = math.inf
        for _ in range(TRIES):
            self.wait()
            taken_ns = take_ns()
            if self.is_still():
                return taken_ns, True
            least_ns = min(least_ns, taken_ns)
            if not self.has_patience():
                break
        return least_ns, False

    def wait(self) -> None:
        """Return at a still moment, or when out of patience."""
        while not self.is_still() and self.has_patience():
            began = time.monotonic()
            time.sleep(NAP_S)
            for _ in range(WAKING):
                self._probe_ns()
            napped_s = time.monotonic() - began  # longer than a nap where the core is shared, with the probes after it
            self.waited_s += napped_s
            Stillness.vain_s += napped_s

    def has_patience(self) -> bool:
        """Tell whether the time measured so far allows for more waiting, and waiting has not been in vain."""
        measured_s = time.monotonic() - self.started - self.waited_s
        return self.waited_s < SLACK_S + PATIENCE * measured_s and Stillness.vain_s < VAIN_S

    def is_still(self) -> bool:
        """Tell whether the core runs about as fast as it ever did."""
        now_ns = min(self._probe_ns() for _ in range(2))
        self._note(now_ns)
        is_still = now_ns < STILL * Stillness.least_ns
        if is_still:
            Stillness.vain_s = 0.0
        return is_still

    @staticmethod
    def _note(probe_ns: float) -> None:
        Stillness.least_ns = min(Stillness.least_ns, probe_ns)

    def _probe_ns(self) -> int:
        started = time.thread_time_ns()
        for _ in range(4):
            self.factor @ self.factor
        return time.thread_time_ns() - started


def time_models(
    models: Mapping[str, Model],
    load: Callable[[Model], Invocable],
    repeats: int = 10,
    *,
    seed: int = 0,
    group: int = 64,
) -> dict[str, Timing]:
    """Time models side by side, so that what disturbs the machine for a while disturbs all of them.

    Args:
        models: name → model; looked up once each, so that a lazy mapping need not hold them all.
        load: makes a model ready to be timed.
        repeats: timings of each at most; fewer where `ENOUGH` of them were taken at still moments.
        seed: decides the order of the timings.
        group: models held in memory, and shuffled together, at a time.
    """
    rng = Random(seed)
    stillness = Stillness()
    taken: dict[str, list[float]] = {name: [] for name in models}
    enough, still = math.ceil(ENOUGH * repeats), dict.fromkeys(models, 0)
    names = list(models)
    for start in range(0, len(names), group):
        clocked = {name: _Clocked(load(models[name])) for name in names[start : start + group]}
        order = [name for name in clocked for _ in range(repeats)]
        rng.shuffle(order)
        for name in order:
            if still[name] < enough:
                taken_ns, was_still = stillness.time_ns(clocked[name].time_ns)
                taken[name].append(taken_ns)
                still[name] += was_still
    return {name: Timing(min(ns) / 1e6, statistics.median(ns) / min(ns), still[name] > 0) for name, ns in taken.items()}
