"""How much work a job has, by kind, and what it has spent on it so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Annotated

from annotated_types import Gt

REST = "all else"  # what a job does besides the work that it counts, at its start and its end
TRAINED = 2.0  # times as long an image takes in a pass of training as one that is looked at


@dataclass(frozen=True)
class Amount:
    """Says how much work of one kind there is."""

    times: float  # how often it is done
    # images that are looked at each time, `TRAINED` of them for one in a pass of training, or what else it takes longer
    # with
    size: Annotated[float, Gt(0)] = 1.0


@dataclass(frozen=True)
class Extent:
    """Says how much of a job is tried."""

    images: int | None  # most of a batch, and of a set that is looked at; None takes as many as the job
    repeats: int = 1  # pieces of work of a kind, besides what warms up


@dataclass(frozen=True)
class Scale:
    """Says of a setting that work grows with it, so that a budget may lower it."""

    setting: str  # below the job's settings, e.g. `recipe.epochs`
    asked: int
    kinds: tuple[str, ...]  # of the work that grows with it
    # settings that keep their proportion to it, with what was asked; whole numbers stay whole
    along: Mapping[str, float] = field(default_factory=dict)
    # of work that grows less: its amount at 1, 2, … of the setting; at more it is as at the last
    amounts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    least: int = 1  # below which what follows could not go on

    def share(self, kind: str, factor: float) -> float:
        """Return the part of a kind of work that is left."""
        number, amounts = self.scaled(factor), self.amounts.get(kind)
        if amounts is None:
            return number / self.asked
        left, whole = (amounts[min(it, len(amounts)) - 1] for it in (number, self.asked))
        return left / whole if whole else 0.0

    def scaled(self, factor: float) -> int:
        """Return what becomes of it; nothing is left out altogether."""
        return max(min(self.least, self.asked), int(factor * self.asked))

    def values(self, factor: float) -> dict[str, float]:
        """Return what becomes of it and of the settings along with it."""
        number = self.scaled(factor)
        return {self.setting: number} | {name: _scaled(of, number / self.asked) for name, of in self.along.items()}


def _scaled(value: float, factor: float) -> float:
    return max(1, int(value * factor)) if isinstance(value, int) else float(f"{value * factor:.6g}")


@dataclass(frozen=True)
class Spent:
    """Says what work of one kind has taken until now, in seconds by the clock and of processors.

    What came first is told apart: it also warms up.
    """

    kind: str
    times: int = 0  # it was done
    seconds: float = 0.0
    processor_seconds: float = 0.0
    first_times: int = 0  # of these those that were told of first
    first_seconds: float = 0.0
    first_processor_seconds: float = 0.0

    def more(self, times: int, seconds: float, processor_seconds: float) -> Spent:
        """Add so many times."""
        if not self.times:
            return Spent(self.kind, times, seconds, processor_seconds, times, seconds, processor_seconds)
        return replace(
            self,
            times=self.times + times,
            seconds=self.seconds + seconds,
            processor_seconds=self.processor_seconds + processor_seconds,
        )

    def joined(self, other: Spent) -> Spent:
        """Add what another process took for the same kind; most of it coming first, nothing of it warms up."""
        mine, its = astuple(self)[1:], astuple(other)[1:]
        both = Spent(self.kind, *(one + more for one, more in zip(mine, its, strict=True)))
        if 2 * both.first_times <= both.times:
            return both
        return Spent(self.kind, both.times, both.seconds, both.processor_seconds)

    @property
    def each(self) -> tuple[float, float]:
        """Seconds, by the clock and of processors, of one time; the first ones count until there are as many others.

        Fewer tell less than those do, though they warm up: the first 115 blocks of a table took .17 s each, the next 20
        .66, all of them .28.
        """
        others = self.times - self.first_times
        if others < self.first_times:
            return self.seconds / self.times, self.processor_seconds / self.times
        return (
            (self.seconds - self.first_seconds) / others,
            (self.processor_seconds - self.first_processor_seconds) / others,
        )
