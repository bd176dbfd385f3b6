"""What can be searched, the spaces of a superspace and the subnets of a space, and how new individuals are sampled."""

import random
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

from spaceevo.errors import ConstraintError
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


@dataclass(frozen=True)
class SpaceProblem:
    """Describes the search among the spaces of a superspace: a block type and a width window per searched stage."""

    superspace: Superspace

    def starts(self) -> list[SpaceMember]:
        """List the uniform spaces: one block type, one window index (at most a stage's last) in every stage."""
        stages = self.superspace.searched
        return [
            self.superspace.member([block] * len(stages), [min(window, stage.windows - 1) for stage in stages])
            for block in range(len(self.superspace.candidates))
            for window in range(max(stage.windows for stage in stages))
        ]

    def sample(self, rng: random.Random) -> SpaceMember:
        """Sample block type and window of every stage."""
        return sample_member(self.superspace, rng)

    def children(self, parent: SpaceMember, rng: random.Random) -> list[SpaceMember]:
        """Make one child with another block type and one with another window, each in a random stage."""
        mutants = (mutate_block(parent, rng), mutate_window(parent, rng))
        return [mutant for mutant in mutants if mutant is not None]

    def neighbours(self, item: SpaceMember, position: int) -> list[SpaceMember]:
        """List all spaces that differ from `item` in the stage at `position`."""
        windows = range(self.superspace.searched[position].windows)
        options = [
            replace(item, blocks=_with(item.blocks, position, block), windows=_with(item.windows, position, window))
            for block, window in product(range(len(self.superspace.candidates)), windows)
        ]
        return [option for option in options if option != item]

    def decode(self, text: str) -> SpaceMember:
        """Read a space of this superspace, e.g. `mobilew-122222-155400`; an `EncodingError` says what is wrong."""
        return parse_space(text, within=self.superspace)


@dataclass(frozen=True)
class SubnetProblem:
    """Describes the search among the subnets of a space that pass `feasible`, usually limits."""

    member: SpaceMember
    feasible: Callable[[SubnetSpec], bool] = lambda _: True
    requirement: str = "none"  # what `feasible` asks for, in words, for the message when no subnet passes
    cost: Callable[[SubnetSpec], float] = lambda _: 0.0  # what the search of a front keeps low, usually latency
    starts: tuple[SubnetSpec, ...] = ()  # subnets to look at first, besides the smallest and the largest

    def sample(self, rng: random.Random) -> SubnetSpec:
        """Sample a subnet."""
        return sample_subnet(self.member, rng)

    def mutate(self, parent: SubnetSpec, rng: random.Random) -> SubnetSpec:
        """Sample some choices of a subnet anew: each with probability .3, the resolution with .5."""
        return mutate_subnet(self.member, parent, rng)

    def crossover(self, first: SubnetSpec, second: SubnetSpec, rng: random.Random) -> SubnetSpec:
        """Take every choice from either parent."""
        return crossover_subnet(self.member, first, second, rng)

    def decode(self, text: str) -> SubnetSpec:
        """Read a subnet of this space; an `EncodingError` says what is wrong."""
        spec = SubnetSpec.parse(text)
        self.member.validate(spec)
        return spec


def _with(values: tuple[int, ...], position: int, value: int) -> tuple[int, ...]:
    return (*values[:position], value, *values[position + 1 :])


def first_accepted(sample: Callable[[], Item], accept: Callable[[Item], bool], tries: int) -> Item | None:
    """Take the first accepted sample, or None after `tries`."""
    return next((item for item in (sample() for _ in range(tries)) if accept(item)), None)


def distinct(
    items: Iterable[Item], size: int, sample: Callable[[], Item], accept: Callable[[Item], bool], tries: int
) -> list[Item]:
    """Add distinct accepted samples to `items` until there are `size`, or `tries` in a row bring nothing new."""
    found = dict.fromkeys(items)
    while len(found) < size:
        item = first_accepted(sample, lambda item: item not in found and accept(item), tries)
        if item is None:
            break
        found[item] = None
    return list(found)


def feasible_ones(
    problem: SubnetProblem, items: Iterable[SubnetSpec], size: int, sample: Callable[[], SubnetSpec], tries: int
) -> list[SubnetSpec]:
    """Add distinct feasible samples to the feasible ones of `items` until there are `size`, as `distinct` does.

    Raises:
        ConstraintError: there is none.
    """
    found = distinct(filter(problem.feasible, items), size, sample, problem.feasible, tries)
    if not found:
        raise ConstraintError(f"none of {tries} random individuals meets: {problem.requirement}; relax it")
    return found
