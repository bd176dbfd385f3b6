"""What a job will cost on this machine: pieces of its work are timed in trials, and multiplied by what it has to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spaceevo.artifacts.records import SCHEMA, Record
from spaceevo.artifacts.work import Amount, Spent
from spaceevo.jobs.trial import Extent, Trial

FEW = 4  # Images of the first trial
FEWER = 2  # Images of the second where the first was slow already
BUDGET_S = 15.0  # Of processors, that the second trial's work may be foreseen to take
GROWING = 0.2  # of the time of few images, the part that is foreseen to grow with them
LEAST_REPEATS, MOST_REPEATS = 2, 10
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

    What takes too long on as many images as asked for is timed on two smaller numbers, and grows in proportion.

    Args:
        amounts: of the whole job.
        attempt: tries the job.
        as_many: networks of the job for each one that is tried. What a trial writes of one is its weights, four times
            (the checkpoint, and a state of weights and optimiser), which is about what it takes of memory.
    """
    extents = [Extent(FEW)]
    trials = [attempt(extents[0])]
    if any(amount.size > trials[0].amounts[kind].size for kind, amount in amounts.items()):
        extents.append(_second(amounts, trials[0]))
        trials.append(attempt(extents[1]))
    order = sorted(range(len(trials)), key=lambda number: _size(trials[number]))
    small, large = trials[order[0]], trials[order[-1]]
    each = {kind: _each(kind, amount, small, large) for kind, amount in amounts.items() if kind in _spent(small, large)}
    # what the first of a kind took more than others is part of what does not grow
    spent = [Seconds(*(one.times * each for each in one.each)) for one in large.spent.values()]
    fixed = Seconds(
        max(0.0, large.seconds - sum(one.clock for one in spent)),
        max(0.0, large.processor_seconds - sum(one.processors for one in spent)),
    )
    by_kind = {kind: amounts[kind].times * one.clock for kind, one in each.items()}
    on_processors = sum(amounts[kind].times * one.processors for kind, one in each.items())
    is_whole = all(amount.size <= large.amounts[kind].size for kind, amount in amounts.items())
    images = None if is_whole else extents[order[-1]].images
    return Cost(
        seconds=fixed.clock + sum(by_kind.values()),
        processor_seconds=fixed.processors + on_processors,
        memory_mb=(_grown(amounts, small, large) + (as_many - 1) * large.disk_bytes) / MB,
        disk_mb=as_many * large.disk_bytes / MB,
        seconds_by_kind=by_kind,
        tried=_told(large, images),
    )


def _second(amounts: Mapping[str, Amount], first: Trial) -> Extent:
    """Choose what is tried next: as many images as the budget allows, and as many repeats."""
    largest = int(max(amount.size for amount in amounts.values()))
    for images in (None, *(2**power for power in range(largest.bit_length(), 2, -1))):
        seconds = sum(_foreseen(kind, amount, first, images) for kind, amount in amounts.items())
        if seconds <= BUDGET_S:
            return Extent(images, max(LEAST_REPEATS, min(MOST_REPEATS, int(BUDGET_S / max(seconds, 1e-3)))))
    return Extent(FEWER)


def _foreseen(kind: str, amount: Amount, first: Trial, images: int | None) -> float:
    """Foresee the processor time of a kind in the second trial; most of the first's is taken not to grow."""
    if kind not in first.spent:
        return 0.0
    few, spent = first.amounts[kind].size, first.spent[kind]
    size = amount.size if images is None else min(amount.size, few / FEW * images)
    return spent.times * spent.each[1] * (1 - GROWING + GROWING * size / few)


def _spent(small: Trial, large: Trial) -> dict[str, Spent]:
    """What each kind took in the larger trial; in the other where it came in that alone, as blocks measured once."""
    return {**small.spent, **large.spent}


def _size(trial: Trial) -> float:
    return max(amount.size for amount in trial.amounts.values())


def _each(kind: str, amount: Amount, small: Trial, large: Trial) -> Seconds:
    """Time of one piece of work of a kind at the size asked for."""
    most = Seconds(*_spent(small, large)[kind].each)
    at, below = large.amounts[kind].size, small.amounts[kind].size
    if amount.size <= at or kind not in small.spent:
        return most
    if at <= below:  # one trial alone
        return Seconds(*(value * amount.size / at for value in most))
    further = (amount.size - at) / (at - below)
    growth = [
        1 + max(0.0, 1 - low / max(high, TICK_S)) * further
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


def _told(trial: Trial, images: int | None) -> str:
    """Say what an estimate was measured on."""
    work = ", ".join(f"{one.times} {kind}" for kind, one in trial.spent.items())
    return f"{work}{'' if images is None else f'; {images} images at most, then in proportion'}"
