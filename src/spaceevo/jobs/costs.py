"""What a job will cost on this machine: pieces of its work are timed in trials, and multiplied by what it has to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from spaceevo.artifacts.records import SCHEMA, Record
from spaceevo.artifacts.work import REST, Amount, Extent, Spent
from spaceevo.jobs.trial import Trial

FEW = 2  # Images of the first trial
LEAST = 4  # Images of the second where the first was slow already
BUDGET_S = 20.0  # Of processors, that the second trial's work may be foreseen to take
SHARE, LEAST_S = 0.15, 8.0  # of the whole job's time, that repeats within the budget may take; seconds that they may
OVERHEAD_S = 0.15  # Of processors: most of a piece's time on few images that is foreseen not to grow with them
GROWING = 0.03  # of that time, the least part that is foreseen to grow
LEAST_REPEATS, FEW_REPEATS = 2, 3
BRIEF_S = 6.0  # Of processors; of a shorter job one trial told 2.4 to 5.3 s of 3.0 to 4.2
MOST_REPEATS = 24  # of eight steps of a supernet those that warm up longer make a tenth
TICK_S = 1e-6
MB = 1e6
Try = Callable[[Extent], Trial]


class Seconds(NamedTuple):
    """Holds a time by the clock and one of processors."""

    clock: float
    processors: float


@dataclass(frozen=True)
class Cost(Record):
    """Says what a job takes."""

    seconds: float  # by the clock, as busy as the machine was while it was tried
    processor_seconds: float
    memory_mb: float  # most that is resident
    disk_mb: float  # most that it writes
    seconds_by_kind: Mapping[str, float]  # by the clock, of what grows with its settings
    tried: str  # what it was measured on
    # seconds by the clock of one time of work, by kind, and of `REST` of all else
    each: Mapping[str, float] = field(default_factory=dict)
    schema: int = SCHEMA  # version of this record

    @classmethod
    def sum(cls, costs: Sequence[Cost]) -> Cost:
        """Add the costs of jobs that run one after the other; of memory the greatest counts."""
        times, disk = [(one.seconds, one.processor_seconds) for one in costs], sum(one.disk_mb for one in costs)
        seconds, on_processors = (sum(each) for each in zip(*times, strict=True))
        return cls(seconds, on_processors, max(one.memory_mb for one in costs), disk, {}, "")

    def figures(self) -> dict[str, float | str]:
        """Return the figures, and what they were measured on."""
        names = ("seconds", "processor_seconds", "memory_mb", "disk_mb")
        return {**{name: float(getattr(self, name)) for name in names}, "tried": self.tried}


def estimate(amounts: Mapping[str, Amount], attempt: Try, as_many: float = 1.0) -> Cost:
    """Time a few pieces of a job's work on few images, then on as many as can be had; tell what all of it takes.

    What takes too long on as many images as asked for is timed on two smaller numbers, and grows as between these. What
    took less than was foreseen is timed once more, for longer or on all images; a job of a few seconds once more as it
    was.

    Args:
        amounts: of the whole job.
        attempt: tries the job.
        as_many: networks of the job for each one that is tried. What a trial writes of one is its weights, four times
            (the checkpoint, and a state of weights and optimiser), which is about what it takes of memory.
    """
    extent, small = Extent(FEW), attempt(Extent(FEW))
    large = small
    if any(amount.size > small.amounts[kind].size for kind, amount in amounts.items()):
        extent = _second(amounts, small)
        large = attempt(extent)
        if (more := _longer(amounts, extent, large) or _whole(amounts, extent, small, large)) is not None:
            extent, large = more, attempt(more)
    fixed = _fixed(amounts, small, large)
    if large.processor_seconds <= BRIEF_S:
        again = attempt(extent)
        fixed = Seconds(*(sum(pair) / 2 for pair in zip(fixed, _fixed(amounts, small, again), strict=True)))
        large = again if large is small else replace(large, spent=_spent(large, again))
    each = {kind: _each(kind, amount, small, large) for kind, amount in amounts.items() if kind in _spent(small, large)}
    by_kind = {kind: amounts[kind].times * one.clock for kind, one in each.items()}
    on_processors = sum(amounts[kind].times * one.processors for kind, one in each.items())
    is_whole = all(amount.size <= large.amounts[kind].size for kind, amount in amounts.items())
    images = None if is_whole else extent.images
    return Cost(
        seconds=fixed.clock + sum(by_kind.values()),
        processor_seconds=fixed.processors + on_processors,
        memory_mb=(_grown(amounts, small, large) + (as_many - 1) * large.disk_bytes) / MB,
        disk_mb=as_many * large.disk_bytes / MB,
        seconds_by_kind=by_kind,
        tried=_told(large, images),
        each={REST: fixed.clock} | {kind: one.clock for kind, one in each.items()},
    )


def _fixed(amounts: Mapping[str, Amount], small: Trial, large: Trial) -> Seconds:
    """Time of a job that does not grow with its settings."""
    # what the first of a kind took more than others is part of it
    spent = [Seconds(*(one.times * it for it in one.each)) for kind, one in large.spent.items() if kind in amounts]
    # what came in the first trial alone and is no work of the job's own was done for all jobs that follow
    spent_once = [one for kind, one in small.spent.items() if kind not in large.spent.keys() | amounts.keys()]
    return Seconds(
        max(0.0, large.seconds - sum(one.clock for one in spent)) + sum(one.seconds for one in spent_once),
        max(0.0, large.processor_seconds - sum(one.processors for one in spent))
        + sum(one.processor_seconds for one in spent_once),
    )


def _second(amounts: Mapping[str, Amount], first: Trial) -> Extent:
    """Choose what is tried next: as many images as the budget allows, and as many repeats.

    What does not grow with images, such as measured blocks, has no say in how many they are.
    """
    growing = {kind: amount for kind, amount in amounts.items() if amount.size > first.amounts[kind].size}
    largest = int(max(amount.size for amount in growing.values()))
    for images in (None, *(2**power for power in range(largest.bit_length(), 2, -1))):
        once, more = _foreseen(growing, first, images)
        if once + LEAST_REPEATS * more <= BUDGET_S:
            once, more = _foreseen(amounts, first, images)
            whole = sum(amount.times * _grown_s(kind, amount.size, first) for kind, amount in amounts.items())
            return Extent(images, max(LEAST_REPEATS, _repeats(BUDGET_S - once, more, whole)))
    return Extent(LEAST)


def _longer(amounts: Mapping[str, Amount], extent: Extent, trial: Trial) -> Extent | None:
    """Choose more repeats than a few, if the trial left twice as much of the budget; None where it did not.

    Two steps tell little: they may train two small subnets, and still warm up.
    """
    if extent.repeats > FEW_REPEATS:
        return None
    repeated = [kind for kind, of in amounts.items() if kind in trial.spent and of.times > trial.amounts[kind].times]
    each = {kind: trial.spent[kind].each[1] for kind in repeated}
    more = sum(trial.spent[kind].times * each[kind] for kind in repeated) / (1 + extent.repeats)
    once = max(0.0, trial.processor_seconds - extent.repeats * more)
    whole = sum(amounts[kind].times * each[kind] for kind in repeated)
    repeats = _repeats(BUDGET_S - trial.processor_seconds - once, more, whole) if repeated else 0
    return Extent(extent.images, repeats) if repeats >= 2 * extent.repeats else None


def _whole(amounts: Mapping[str, Amount], extent: Extent, small: Trial, large: Trial) -> Extent | None:
    """Choose as many images as asked for where these fit into the budget by how the trials grew."""
    if extent.images is None:
        return None
    kinds = amounts.keys() & large.spent.keys()
    seconds = sum(large.spent[kind].times * _each(kind, amounts[kind], small, large).processors for kind in kinds)
    return Extent(None, extent.repeats) if seconds <= BUDGET_S else None


def _repeats(budget_s: float, more: float, whole: float) -> int:
    """How many repeats of `more` seconds fit into a budget and into a job that takes `whole` seconds."""
    return min(MOST_REPEATS, int(min(budget_s, max(LEAST_S, SHARE * whole)) / max(more, 1e-3)))


def _foreseen(amounts: Mapping[str, Amount], first: Trial, images: int | None) -> tuple[float, float]:
    """Foresee the processor time of the second trial: of what it does once, and of one repeat of what it repeats."""
    once, more = 0.0, 0.0
    for kind, one in first.spent.items():
        asked, had = amounts.get(kind), first.amounts.get(kind)
        if asked is None or had is None:
            continue
        size = asked.size if images is None else min(asked.size, had.size / FEW * images)
        seconds = one.times * _grown_s(kind, size, first)
        if asked.times > had.times:  # the first trial did it a first time, to warm up, and repeated it once
            more += seconds / 2
        once += seconds if asked.times <= had.times else seconds / 2
    return once, more


def _grown_s(kind: str, size: float, first: Trial) -> float:
    """Foresee the processor time of one piece of work of a kind: what is slow on few images grows with them."""
    if kind not in first.spent:
        return 0.0
    few_s = first.spent[kind].each[1]
    constant_s = min(OVERHEAD_S, (1 - GROWING) * few_s)
    return constant_s + (few_s - constant_s) * size / first.amounts[kind].size


def _spent(small: Trial, large: Trial) -> dict[str, Spent]:
    """What each kind took in the larger trial; in the other too where that was of the same size, as measured blocks."""
    found = {**small.spent, **large.spent}
    for kind in small.spent.keys() & large.spent.keys() if small is not large else ():
        if kind in small.amounts and small.amounts[kind].size == large.amounts[kind].size:
            found[kind] = small.spent[kind].joined(large.spent[kind])
    return found


def _each(kind: str, amount: Amount, small: Trial, large: Trial) -> Seconds:
    """Time of one piece of work of a kind at the size asked for."""
    most = Seconds(*_spent(small, large)[kind].each)
    at, below = large.amounts[kind].size, small.amounts[kind].size
    if amount.size <= at or kind not in small.spent:
        return most
    further = (amount.size - at) / (at - below)
    growth = [
        min(amount.size / at, 1 + max(0.0, 1 - low / max(high, TICK_S)) * further)
        for low, high in zip(small.spent[kind].each, most, strict=True)
    ]
    # by the clock what is busy beside this may hide growth, of processors what a GPU does
    return Seconds(most.clock * max(growth), most.processors * growth[1])


def _grown(amounts: Mapping[str, Amount], small: Trial, large: Trial) -> float:
    """Memory at the size asked for of the first kind, which is the one that needs most."""
    kind = next(iter(amounts))
    low, high, full = small.amounts[kind].size, large.amounts[kind].size, amounts[kind].size
    further = (full - high) / (high - low) if high > low else 0.0
    return large.memory_bytes + max(0, large.memory_bytes - small.memory_bytes) * max(0.0, further)


def counted(times: int, kind: str) -> str:
    """Write how often work of a kind was done: `1 saved state`, `2 networks measured whole`."""
    one = " ".join(word if word.endswith("'s") else word.removesuffix("s") for word in kind.split())
    return f"{times} {one if times == 1 else kind}"


def _told(trial: Trial, images: int | None) -> str:
    """Say what an estimate was measured on."""
    work = ", ".join(counted(one.times, kind) for kind, one in trial.spent.items())
    return f"{work}{'' if images is None else f'; {images} images at most, then in proportion'}"
