"""What can be searched: what each kind of search asks for, the spaces of a superspace, the subnets of a space."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeVar

from spaceevo.search.prediction import ScorePrediction
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import (
    crossover_subnet,
    mutate_block,
    mutate_subnet,
    mutate_window,
    sample_member,
    sample_subnet,
)
from spaceevo.space.superspace import SpaceMember, Superspace

Item = TypeVar("Item", bound=Hashable)


class Problem(Protocol[Item]):
    """What every search needs: random individuals and their texts."""

    def sample(self, rng: random.Random) -> Item:
        """Draw an individual."""

    def encode(self, item: Item) -> str:
        """Write an individual."""

    def decode(self, text: str) -> Item:
        """Read what `encode` writes."""


class AgeingProblem(Problem[Item], Protocol[Item]):
    """What ageing evolution needs."""

    def starts(self) -> Sequence[Item]:
        """Individuals to begin with."""

    def children(self, parent: Item, rng: random.Random) -> Sequence[Item]:
        """One child of each kind of mutation."""


class NeighbourProblem(Problem[Item], Protocol[Item]):
    """What local search needs."""

    @property
    def positions(self) -> int:
        """Number of coordinates of an individual."""

    def neighbours(self, item: Item, position: int) -> Sequence[Item]:
        """All individuals that differ from `item` in one coordinate."""


class ConstrainedProblem(Problem[Item], Protocol[Item]):
    """What generational evolution needs."""

    @property
    def requirement(self) -> str:
        """What `is_feasible` asks for, in words, for an error message."""

    def is_feasible(self, item: Item) -> bool:
        """Whether an individual may be evaluated."""

    def mutate(self, parent: Item, rng: random.Random) -> Item:
        """Change an individual at random."""

    def crossover(self, first: Item, second: Item, rng: random.Random) -> Item:
        """Mix two individuals at random."""


@dataclass(frozen=True)
class SpaceProblem:
    """Spaces of a superspace: a block type and a width window per searched stage."""

    superspace: Superspace

    @property
    def positions(self) -> int:
        """Number of searched stages."""
        return len(self.superspace.searched)

    def starts(self) -> list[SpaceMember]:
        """The uniform spaces: one block type and one window index in every stage, at most the stage's last window."""
        stages = self.superspace.searched
        return [
            self.superspace.member([block] * len(stages), [min(window, stage.windows - 1) for stage in stages])
            for block in range(len(self.superspace.candidates))
            for window in range(max(stage.windows for stage in stages))
        ]

    def sample(self, rng: random.Random) -> SpaceMember:
        """Draw block type and window of every stage."""
        return sample_member(self.superspace, rng)

    def children(self, parent: SpaceMember, rng: random.Random) -> list[SpaceMember]:
        """One child with another block type and one with another window, each in a random stage."""
        mutants = (mutate_block(parent, rng), mutate_window(parent, rng))
        return [mutant for mutant in mutants if mutant is not None]

    def neighbours(self, item: SpaceMember, position: int) -> list[SpaceMember]:
        """All spaces that differ from `item` in the stage at `position`."""
        blocks, windows = range(len(self.superspace.candidates)), range(self.superspace.searched[position].windows)
        options = [
            replace(item, blocks=_with(item.blocks, position, b), windows=_with(item.windows, position, w))
            for b in blocks
            for w in windows
        ]
        return [option for option in options if option != item]

    def encode(self, item: SpaceMember) -> str:
        """Write a space, e.g. `mobilew-122222-155400`."""
        return str(item)

    def decode(self, text: str) -> SpaceMember:
        """Read a space of this superspace.

        Raises:
            EncodingError: malformed, or of another superspace.
        """
        return parse_space(text, within=self.superspace)


@dataclass(frozen=True)
class SubnetProblem:
    """Subnets of a space that pass `feasible`, usually a window of predicted latency.

    `requirement` says in words what `feasible` asks for (`latency in [5, 10] ms, latency_constraint`), for the
    message when no subnet passes. `latency_ms` is what the search of a front keeps low.
    """

    member: SpaceMember
    feasible: Callable[[SubnetSpec], bool] = lambda _: True
    requirement: str = "none"
    latency_ms: Callable[[SubnetSpec], float] = lambda _: 0.0

    @property
    def corners(self) -> tuple[SubnetSpec, SubnetSpec]:
        """The smallest and the largest subnet."""
        return self.member.smallest, self.member.largest

    def cost(self, item: SubnetSpec) -> float:
        """Latency of a subnet in ms."""
        return self.latency_ms(item)

    @cached_property
    def _prediction(self) -> ScorePrediction:
        return ScorePrediction(self.member)

    def predict(self, items: Sequence[SubnetSpec], known: Sequence[tuple[SubnetSpec, float]]) -> list[float]:
        """Scores of subnets by ridge regression on the choices of the evaluated ones."""
        return self._prediction.predict(items, known)

    def is_feasible(self, item: SubnetSpec) -> bool:
        """Whether a subnet passes `feasible`."""
        return self.feasible(item)

    def sample(self, rng: random.Random) -> SubnetSpec:
        """Draw a subnet."""
        return sample_subnet(self.member, rng)

    def mutate(self, parent: SubnetSpec, rng: random.Random) -> SubnetSpec:
        """Redraw some choices of a subnet: each with probability .3, the resolution with .5."""
        return mutate_subnet(self.member, parent, rng)

    def crossover(self, first: SubnetSpec, second: SubnetSpec, rng: random.Random) -> SubnetSpec:
        """Take every choice from either parent."""
        return crossover_subnet(self.member, first, second, rng)

    def encode(self, item: SubnetSpec) -> str:
        """Write a subnet in the published form."""
        return str(item)

    def decode(self, text: str) -> SubnetSpec:
        """Read a subnet of this space.

        Raises:
            EncodingError: malformed, or not in this space.
        """
        spec = SubnetSpec.parse(text)
        self.member.validate(spec)
        return spec


def _with(values: tuple[int, ...], position: int, value: int) -> tuple[int, ...]:
    return (*values[:position], value, *values[position + 1 :])
