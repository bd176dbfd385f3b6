"""Search of a whole front: high score against low cost (top-1 against latency), every trade-off in one run.

A strategy for `evolve` with the survivor selection of NSGA-II (Deb et al. 2002): non-dominated rank first, crowding
distance second. It adds what a cost that is known in advance allows: the first population is spread over the whole
range of costs, and no infeasible individual is ever evaluated.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from spaceevo.search.evolution import SearchState, require_positive
from spaceevo.search.problems import SubnetProblem, distinct, feasible_ones
from spaceevo.space.encoding import SubnetSpec

Value = TypeVar("Value")
Point = tuple[float, float]  # Cost, which is to be low, and score, which is to be high
POOL = 4  # subnets sampled for each one of the first population
TURNS = 4  # in which they are evaluated, each from the cheapest to the costliest


@dataclass(frozen=True)
class FrontEvolution:
    """Searches a front of subnets; the state's population is in the order of survival, the fittest first."""

    problem: SubnetProblem
    population: int = 64  # subnets that survive a generation, and the first generation's number
    generations: int = 20  # the first population is the first of them
    children: int = 64  # subnets evaluated in each further generation
    screened: int = 1  # children sampled for each evaluated one, which predicted scores pick out; 1 predicts nothing
    tries: int = 2_000  # samples without a new feasible subnet after which the space counts as exhausted

    def __post_init__(self) -> None:
        require_positive(population=self.population, generations=self.generations, children=self.children)
        require_positive(screened=self.screened, tries=self.tries)

    @property
    def total(self) -> int:
        """Greatest number of evaluations."""
        return self.population + (self.generations - 1) * self.children

    def advance(self, state: SearchState[SubnetSpec]) -> list[SubnetSpec]:
        """Let the fittest of population and batch survive and propose their children; see `Strategy`."""
        if state.generation == 0:
            return self._first_population(state.rng)
        everyone = [*state.population, *state.batch]
        points = [(self.problem.cost(spec), state.history[spec]) for spec in everyone]
        state.population = [everyone[index] for index in survival_order(points)[: self.population]]
        return self._children(state) if state.generation < self.generations else []

    def _first_population(self, rng: Random) -> list[SubnetSpec]:
        """Feasible subnets at even steps of cost, sampled between the smallest and the largest.

        Costly ones take turns with others, so that what the first take tells what all will.
        """
        problem = self.problem
        corners = (problem.member.smallest, problem.member.largest)

        def sample() -> SubnetSpec:
            """Uniform, or mixed with a corner up to three times: uniform samples alone crowd around the middle."""
            spec = problem.sample(rng)
            corner = rng.choice(corners)
            for _ in range(rng.randrange(4)):
                spec = problem.crossover(spec, corner, rng)
            return spec

        pool = feasible_ones(problem, (*corners, *problem.starts), POOL * self.population, sample, self.tries)
        chosen = evenly(pool, [problem.cost(spec) for spec in pool], self.population)
        return [spec for start in range(TURNS) for spec in chosen[start::TURNS]]

    def _children(self, state: SearchState[SubnetSpec]) -> list[SubnetSpec]:
        """New feasible children of parents chosen by binary tournament: a crossover, a mutant, or both."""
        rng = state.rng
        parents = state.population
        problem = self.problem

        def parent() -> SubnetSpec:
            return parents[min(rng.randrange(len(parents)), rng.randrange(len(parents)))]

        def child() -> SubnetSpec:
            kind = rng.randrange(3)
            made = parent() if kind == 0 else problem.crossover(parent(), parent(), rng)
            return made if kind == 1 else problem.mutate(made, rng)

        def is_new(spec: SubnetSpec) -> bool:
            return spec not in state.history and problem.feasible(spec)

        sampled = distinct((), self.screened * self.children, child, is_new, self.tries)
        if len(sampled) <= self.children:
            return sampled
        scores = predict_scores(sampled, list(state.history.items()))
        points = [(problem.cost(spec), score) for spec, score in zip(sampled, scores, strict=True)]
        return [sampled[index] for index in survival_order(points)[: self.children]]


def ranks(points: Sequence[Point]) -> list[int]:
    """Compute the non-dominated rank of every point, 0 for the front; of equal points only the first is on it.

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
    """Find the positions of the points that no other beats in both cost and score, the cheapest first."""
    found = [index for index, rank in enumerate(ranks(points)) if rank == 0]
    return sorted(found, key=lambda index: points[index][0])


class Staircase:
    """Tells the best score known at or below each cost."""

    def __init__(self, points: Sequence[Point]) -> None:
        steps = [points[index] for index in front(points)]
        self._costs = [cost for cost, _ in steps]
        self._scores = [score for _, score in steps]

    def __call__(self, cost: float) -> float | None:
        """Find the best score among points of at most this cost; None where there is none."""
        index = bisect_right(self._costs, cost) - 1
        return self._scores[index] if index >= 0 else None


def survival_order(points: Sequence[Point]) -> list[int]:
    """Order the positions of all points, the fittest first: by rank, within a rank the loneliest first (NSGA-II)."""
    fronts: dict[int, list[int]] = {}
    for index, rank in enumerate(ranks(points)):
        fronts.setdefault(rank, []).append(index)
    order: list[int] = []
    for _, members in sorted(fronts.items()):
        distance = crowding([points[index] for index in members])
        order += [members[i] for i in sorted(range(len(members)), key=lambda i: -distance[i])]
    return order


def crowding(points: Sequence[Point]) -> list[float]:
    """Compute the crowding distance of points of one front: the gap between its neighbours, infinite at both ends."""
    order = sorted(range(len(points)), key=lambda i: points[i][0])
    distance = [float("inf")] * len(points)
    spans = [max(axis) - min(axis) or 1.0 for axis in zip(*points, strict=True)]
    for before, index, after in zip(order, order[1:], order[2:], strict=False):
        gaps = (abs(b - a) for a, b in zip(points[before], points[after], strict=True))
        distance[index] = sum(gap / span for gap, span in zip(gaps, spans, strict=True))
    return distance


def evenly(items: Sequence[Value], costs: Sequence[float], count: int) -> list[Value]:
    """Choose `count` of `items`, nearest to even steps between the least and the greatest cost."""
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


def predict_scores(
    specs: Sequence[SubnetSpec], known: Sequence[tuple[SubnetSpec, float]], penalty: float = 4.0
) -> list[float]:
    """Predict the scores of subnets from those of `known` ones, linearly in the choices that a subnet makes.

    There is one weight for each depth, each resolution, and each kernel, width and ratio of each block; a choice that
    no known subnet makes counts nothing.

    Args:
        specs: subnets to predict.
        known: evaluated subnets with their scores.
        penalty: of the squared weights, in units of one evaluation.
    """
    # scikit-learn takes a second to import, and not every search predicts
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import Ridge

    vectorizer = DictVectorizer(sparse=False)
    rows = vectorizer.fit_transform([dict(_choices(spec)) for spec, _ in known])
    model = Ridge(alpha=penalty).fit(rows, [score for _, score in known])
    predicted: list[float] = model.predict(vectorizer.transform([dict(_choices(spec)) for spec in specs])).tolist()
    return predicted


def _choices(spec: SubnetSpec) -> Iterator[tuple[str, str]]:
    """A subnet's choices by place; as texts, since numbers would be taken for quantities."""
    yield "resolution", str(spec.resolution)
    for stage, blocks in enumerate(spec.stages):
        yield f"depth {stage}", str(len(blocks))
        for position, block in enumerate(blocks):
            for place, value in zip(("kernel", "width", "expand"), block, strict=True):
                yield f"{place} {stage}.{position}", str(value)
