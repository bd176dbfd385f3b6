"""How much work a job has, by kind, and what it has spent on it so far."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Amount:
    """Says how much work of one kind there is."""

    times: float  # how often it is done
    size: float = 1.0  # images, or what else it takes longer with, of each time


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

    @property
    def each(self) -> tuple[float, float]:
        """Seconds, by the clock and of processors, of one time; those told of first count where there are no others."""
        others = self.times - self.first_times
        if not others:
            return self.seconds / self.times, self.processor_seconds / self.times
        return (
            (self.seconds - self.first_seconds) / others,
            (self.processor_seconds - self.first_processor_seconds) / others,
        )
