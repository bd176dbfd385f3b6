"""Search of a whole front: high score against low cost (top-1 against latency), every trade-off in one run.

A strategy for `evolve` with the survivor selection of NSGA-II (Deb et al. 2002): non-dominated rank first, crowding
distance second. It adds what a cost that is known in advance allows: the first population is spread over the whole
range of costs, and no infeasible individual is ever evaluated.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from spaceevo.errors import ConfigError, ConstraintError
from spaceevo.search.evolution import SearchState
from spaceevo.search.problems import ConstrainedProblem, Item

Value = TypeVar("Value", bound=Hashable)
Point = tuple[float, float]
"""Cost, which is to be low, and score, which is to be high."""


class FrontProblem(ConstrainedProblem[Item], Protocol[Item]):
    """What the search of a front needs."""

    @property
    def corners(self) -> tuple[Item, Item]:
        """The individuals of, about, the least and the greatest cost."""

    def cost(self, item: Item) -> float:
        """What is to be low beside a high score."""

    def predict(self, items: Sequence[Item], known: Sequence[tuple[Item, float]]) -> Sequence[float]:
        """Scores of `items` as `known` ones with their scores let expect."""


@dataclass(frozen=True)
class FrontEvolution(Generic[Item]):
    """Multi-objective evolution; the state's population is in the order of survival, the fittest first.

    Args:
        problem: what is searched.
        population: individuals that survive a generation, and the first generation's number.
        generations: the first population is the first of them.
        children: individuals evaluated in each further generation.
        screened: children drawn for each one that is evaluated, which the problem's prediction picks out; 1 predicts
            nothing.
        tries: draws without a new feasible individual after which the space counts as exhausted.
    """

    problem: FrontProblem[Item]
    population: int = 64
    generations: int = 20
    children: int = 64
    screened: int = 1
    tries: int = 2_000

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: one is below 1.
        """
        for name in ("population", "generations", "children", "screened", "tries"):
            if getattr(self, name) < 1:
                raise ConfigError(f"search of a front: {name} = {getattr(self, name)}; allowed: 1 or more")

    @property
    def total(self) -> int:
        """Greatest number of evaluations."""
        return self.population + (self.generations - 1) * self.children

    def advance(self, state: SearchState[Item]) -> list[Item]:
        """Let the fittest of population and batch survive and propose their children; see `Strategy`."""
        if state.generation == 0:
            return self._first_population(state.rng)
        everyone = [*state.population, *state.batch]
        points = [(self.problem.cost(item), state.history[item]) for item in everyone]
        state.population = [everyone[index] for index in survival_order(points)[: self.population]]
        return self._children(state) if state.generation < self.generations else []

    def _first_population(self, rng: random.Random) -> list[Item]:
        """Feasible individuals at even steps of cost, drawn between the corners."""
        problem, (cheap, dear) = self.problem, self.problem.corners

        def draw() -> Item:
            """Uniform, or mixed with a corner once or twice: uniform draws alone crowd around the middle."""
            item = problem.sample(rng)
            corner = rng.choice((cheap, dear))
            for _ in range(rng.randrange(4)):
                item = problem.crossover(item, corner, rng)
            return item

        pool = [item for item in (cheap, dear) if problem.is_feasible(item)]
        pool = distinct(pool, 4 * self.population, draw, problem.is_feasible, self.tries)
        if not pool:
            raise ConstraintError(f"none of {self.tries} random individuals meets: {problem.requirement}; relax it")
        return evenly(pool, [problem.cost(item) for item in pool], self.population)

    def _children(self, state: SearchState[Item]) -> list[Item]:
        """New feasible children of parents chosen by binary tournament: a crossover, a mutant, or both."""
        rng, parents, problem = state.rng, state.population, self.problem

        def parent() -> Item:
            return parents[min(rng.randrange(len(parents)), rng.randrange(len(parents)))]

        def draw() -> Item:
            kind = rng.randrange(3)
            child = parent() if kind == 0 else problem.crossover(parent(), parent(), rng)
            return child if kind == 1 else problem.mutate(child, rng)

        def is_new(item: Item) -> bool:
            return item not in state.history and problem.is_feasible(item)

        drawn = distinct((), self.screened * self.children, draw, is_new, self.tries)
        if len(drawn) <= self.children:
            return drawn
        scores = problem.predict(drawn, list(state.history.items()))
        points = [(problem.cost(item), score) for item, score in zip(drawn, scores, strict=True)]
        return [drawn[index] for index in survival_order(points)[: self.children]]


def ranks(points: Sequence[Point]) -> list[int]:
    """Non-dominated rank of every point, 0 for the front; of equal points only the first is on it.

    In order of rising cost a point belongs to the first front whose best score so far is below its own. Those best
    scores fall from front to front, so a bisection finds it, and all takes O(n log n).
    """
    negated_best: list[float] = []
    found = [0] * len(points)
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        score = points[index][1]
        rank = bisect_right(negated_best, -score)
        negated_best[rank : rank + 1] = [-score]
        found[index] = rank
    return found


def front(points: Sequence[Point]) -> list[int]:
    """Positions of the points that no other beats in both cost and score, the cheapest first."""
    found = [index for index, rank in enumerate(ranks(points)) if rank == 0]
    return sorted(found, key=lambda index: points[index][0])


class Staircase:
    """The best score known at or below each cost."""

    def __init__(self, points: Sequence[Point]) -> None:
        steps = [points[index] for index in front(points)]
        self._costs = [cost for cost, _ in steps]
        self._scores = [score for _, score in steps]

    def __call__(self, cost: float) -> float | None:
        """Best score among points of at most this cost; None where there is none."""
        index = bisect_right(self._costs, cost) - 1
        return self._scores[index] if index >= 0 else None


def survival_order(points: Sequence[Point]) -> list[int]:
    """Positions of all points, the fittest first: by rank, within a rank the loneliest first (NSGA-II)."""
    fronts: dict[int, list[int]] = {}
    for index, rank in enumerate(ranks(points)):
        fronts.setdefault(rank, []).append(index)
    order: list[int] = []
    for _, members in sorted(fronts.items()):
        distance = crowding([points[index] for index in members])
        order += [members[i] for i in sorted(range(len(members)), key=lambda i: -distance[i])]
    return order


def crowding(points: Sequence[Point]) -> list[float]:
    """Crowding distance of points of one front: the gap between each one's neighbours, infinite at both ends."""
    order = sorted(range(len(points)), key=lambda i: points[i][0])
    distance = [float("inf")] * len(points)
    spans = [max(axis) - min(axis) or 1.0 for axis in zip(*points, strict=True)]
    for before, index, after in zip(order, order[1:], order[2:], strict=False):
        gaps = (abs(b - a) for a, b in zip(points[before], points[after], strict=True))
        distance[index] = sum(gap / span for gap, span in zip(gaps, spans, strict=True))
    return distance


def evenly(items: Sequence[Item], costs: Sequence[float], count: int) -> list[Item]:
    """`count` of `items`, nearest to even steps between the least and the greatest cost."""
    order = sorted(range(len(items)), key=costs.__getitem__)
    if len(order) <= count:
        return [items[index] for index in order]
    left = [costs[index] for index in order]
    low, high = left[0], left[-1]
    chosen = []
    for step in range(count):
        target = low + (high - low) * step / max(count - 1, 1)
        above = min(bisect_left(left, target), len(left) - 1)
        nearest = above - 1 if above and target - left[above - 1] <= left[above] - target else above
        left.pop(nearest)
        chosen.append(items[order.pop(nearest)])
    return chosen


def distinct(
    items: Iterable[Value], size: int, draw: Callable[[], Value], accept: Callable[[Value], bool], tries: int
) -> list[Value]:
    """Add distinct accepted draws to `items` until there are `size`, or `tries` draws in a row bring nothing new."""
    found = dict.fromkeys(items)
    failures = 0
    while len(found) < size and failures < tries:
        item = draw()
        failures += 1
        if item not in found and accept(item):
            found[item] = None
            failures = 0
    return list(found)
