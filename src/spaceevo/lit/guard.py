"""When a training loss is no number or explodes: stop, or go back and on with a smaller rate."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from annotated_types import Gt
from pydantic.dataclasses import dataclass

from spaceevo.artifacts.values import Index, Positive, PositiveShare
from spaceevo.errors import SpaceEvoError

MEMORY = 0.98  # Decay of the running mean a loss is compared with


@dataclass(frozen=True)
class Guard:
    """Says what to do about a loss that is no number or explodes."""

    # `stop` ends the run with the last finished epoch kept; `rollback` returns to it and goes on with smaller rates
    action: Literal["stop", "rollback"] = "stop"
    # a loss this many times its running mean has exploded; None looks at non-finite losses only
    explodes_at: Annotated[Positive, Gt(1)] | None = None
    rate_factor: PositiveShare = 0.5  # of the learning rates after each rollback
    attempts: Index = 3  # rollbacks before the run stops after all


class DivergenceError(SpaceEvoError):
    """Tells that a loss, a weight or a statistic is no longer a number, or a loss many times what it was."""

    def __init__(self, fault: str, step: int) -> None:
        super().__init__(f"{fault} at step {step}")

    def advised(self, guard: Guard, *, goes_on: bool, precision: str) -> Self:
        """Add what can be done now, and return the error.

        Args:
            guard: what had been done.
            goes_on: whether a state was kept that the same command goes on from.
            precision: the trainer's.
        """
        again = "run the same command again: it " + ("resumes at the last kept state" if goes_on else "starts anew")
        told = f"set recipe.guard.action=rollback and {again}, with a smaller learning rate after the next such fault"
        if guard.action == "rollback":
            told = f"{guard.attempts} rollbacks did not help; raise recipe.guard.attempts and {again}"
        other = ", or without trainer.precision=16-mixed" if precision == "16-mixed" else ""
        lower = "or start anew with a lower recipe.<stage>.<precision>.optimizer.lr"
        self.args = (f"{self}; {told}; {lower}{other}",)
        return self


class LossWatch:
    """Keeps running means of named losses, and checks each new one against its own."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.means: dict[str, float] = {}

    def check(self, losses: Mapping[str, float], step: int) -> None:
        """Look at the losses of one step; raise a `DivergenceError` where one is no number, or explodes."""
        limit = self.guard.explodes_at
        for name, loss in losses.items():
            mean = self.means.get(name)
            if not math.isfinite(loss) or (limit and mean and loss > limit * abs(mean)):
                was = "" if mean is None or not math.isfinite(loss) else f" (its mean was {mean:.4g})"
                raise DivergenceError(f"{name} loss is {loss:.4g}{was}", step)
            self.means[name] = loss if mean is None else MEMORY * mean + (1 - MEMORY) * loss
