"""The search of one platform's front: which subnets are evaluated, which are shown, which is best within each limit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

from spaceevo.artifacts import write_json
from spaceevo.artifacts.values import Share
from spaceevo.errors import ConfigError, ConstraintError
from spaceevo.nn.evaluate import Evaluation
from spaceevo.search.evolution import GenerationalEvolution, SearchState, Strategy, evolve
from spaceevo.search.front import POOL, FrontEvolution, Staircase, evenly, front, predict_scores
from spaceevo.search.limits import Kind, Limit, kinds_of, main_kind
from spaceevo.search.problems import SubnetProblem
from spaceevo.space.encoding import SubnetSpec
from spaceevo.stages.fitness import Fitness
from spaceevo.stages.settings import Count, Positive
from spaceevo.stages.subnet_figures import SubnetFigures, column_of
from spaceevo.terminal import progress


@dataclass(frozen=True)
class FrontRecipe:
    """Says how the whole front is searched at once."""

    population: Count  # subnets that survive a generation, and the first generation's number
    generations: Count  # the first population is the first of them
    children: Count  # subnets evaluated in each further generation
    screened: Count  # children sampled for each one that is evaluated


@dataclass(frozen=True)
class EvolutionRecipe:
    """Says how the published evolution searches for one limit."""

    population: Count  # subnets that live at a time
    generations: Count  # the first population is the first of them
    mutants: Count  # of each further generation
    crossovers: Count  # of each further generation


@dataclass(frozen=True)
class SubnetSearchRecipe:
    """Says how subnets are searched."""

    # `front`, all trade-offs in one search, or `published`, one evolution for each limit
    method: Literal["front", "published"]
    front: FrontRecipe  # settings of the former
    evolution: EvolutionRecipe  # settings of the latter
    delta_ms: Positive | None  # latencies lie at most so far below their limit, in ms; None sets no lower end
    # standard errors between a subnet and the front from which on it is given up; None never does
    stop_z: Positive | None
    tested: Count  # subnets of the front that are tested
    # without a space search, where the latency of `auto` lies from the smallest subnet to the largest, 0 to 1
    auto_point: Share

    @property
    def evaluations(self) -> int:
        """The most subnets that are evaluated in one search."""
        if self.method == "front":
            return self.front.population + (self.front.generations - 1) * self.front.children
        return self.evolution.population + (self.evolution.generations - 1) * (
            self.evolution.mutants + self.evolution.crossovers
        )

    def looked_at(self, population: int) -> int:
        """Count the subnets whose latency one search asks for, with so many in its first generation."""
        if self.method == "published":
            return self.evaluations
        further = (self.front.generations - 1) * self.front.screened * self.front.children
        return POOL * population + further * population // self.front.population


def expected_front(evaluations: int) -> int:
    """Estimate how many of so many subnets no other beats.

    Of points thrown at random it is the sum of 1/n, n = 1, 2, …; of subnets, whose top-1 goes with their cost, half as
    many again: 4 to 8 of 46 in seven searches of the demo.
    """
    return round(1.5 * sum(1 / n for n in range(1, evaluations + 1)))


@dataclass(frozen=True)
class Found:
    """Holds what the search for one platform found."""

    figures: SubnetFigures  # what its subnets take
    limits: tuple[Limit, ...]  # those that were kept
    evaluations: Mapping[SubnetSpec, Evaluation]  # all evaluated subnets
    front: Sequence[SubnetSpec]  # those of the front that are tested, the cheapest first
    chosen: Mapping[Limit, SubnetSpec]  # the best subnet within each limit

    @property
    def platform(self) -> str:
        """Name of the platform."""
        return self.figures.platform_name

    @property
    def axis(self) -> Kind:
        """What the front is low in."""
        return main_kind(self.limits)

    def cost(self, spec: SubnetSpec) -> float:
        """Tell what a subnet takes of that."""
        return self.figures.figure(self.axis, spec)

    @property
    def shown(self) -> list[SubnetSpec]:
        """The front and the chosen ones, the cheapest first."""
        return sorted(dict.fromkeys([*self.front, *self.chosen.values()]), key=self.cost)


@dataclass
class FrontSearch:
    """Searches for one platform.

    Raises:
        ConstraintError: it is known that no subnet meets the lowest limit of a kind; nothing has been evaluated then.
    """

    figures: SubnetFigures  # what subnets of the space take
    limits: Sequence[Limit]  # limits to keep, of which at most one kind differs
    recipe: SubnetSearchRecipe  # how to search
    seed: int  # decides what is sampled
    fitness: Fitness  # evaluates subnets
    output: Path  # folder of the file that says where the search stands
    evaluations: dict[SubnetSpec, Evaluation] = field(default_factory=dict)  # those of this search

    def __post_init__(self) -> None:
        """Check the lowest limit of each kind."""
        lowest = {kind: min(limit.by_kind[kind] for limit in self.limits) for kind in kinds_of(self.limits)}
        self.starts = tuple(filter(None, [self.figures.require(kind, bound) for kind, bound in lowest.items()]))

    def cost(self, spec: SubnetSpec) -> float:
        """Tell what the front is to be low in."""
        return self.figures.figure(main_kind(self.limits), spec)

    def run(self) -> Found:
        """Search once for all limits, or as published once for each."""
        if self.recipe.method == "front":
            how, problem = self.recipe.front, self._problem(self.limits)
            strategy = FrontEvolution(problem, how.population, how.generations, how.children, how.screened)
            self._evolve(strategy, Random(f"{self.seed}"), stops=True)
        for limit in self.limits if self.recipe.method == "published" else ():
            size, problem = self.recipe.evolution, self._problem([limit])
            published = GenerationalEvolution(problem, size.population, size.generations, size.mutants, size.crossovers)
            self._evolve(published, Random(f"{self.seed}-{limit.label if limit.demands else limit.ms}"), stops=False)
        scores = {spec: found.top1 for spec, found in self.evaluations.items() if not found.stopped}
        points = [(self.cost(spec), score) for spec, score in scores.items()]
        best = [list(scores)[index] for index in front(points)]
        shown = evenly(best, [self.cost(spec) for spec in best], self.recipe.tested)
        chosen = {limit: self._best(scores, limit) for limit in self.limits}
        return Found(self.figures, tuple(self.limits), self.evaluations, shown, chosen)

    def _evolve(self, strategy: Strategy[SubnetSpec], rng: Random, stops: bool) -> None:
        with progress() as bar:
            task = bar.add_task("subnet search", total=strategy.total)

            def show(spec: SubnetSpec, evaluation: Evaluation) -> None:
                self.evaluations[spec] = evaluation
                best = max(found.top1 for found in self.evaluations.values() if not found.stopped)
                bar.update(task, advance=1, description=f"subnets for {self.figures.platform_name}, best {best:.1f} %")

            def evaluate_batch(state: SearchState[SubnetSpec]) -> None:
                known = [(self.cost(s), e.top1) for s, e in self.evaluations.items() if not e.stopped]
                stairs = Staircase(known if stops else [])  # top-1 to beat at a cost: the best of all as cheap
                self.fitness.evaluate(state.batch, lambda spec: stairs(self.cost(spec)), on_evaluation=show)
                self._save_population(state)

            evolve(strategy, lambda spec: self.evaluations[spec].top1, rng, on_batch=evaluate_batch)

    def _save_population(self, state: SearchState[SubnetSpec]) -> None:
        """Write what the next generation descends from, for people: a search continues from its evaluations."""
        column = column_of(main_kind(self.limits))
        rows = [
            {"subnet": str(spec), column: self.cost(spec), "held_out_top1": self.evaluations[spec].top1}
            for spec in [*state.population, *state.batch]
        ]
        path = self.output / f"population_{self.figures.platform_name}.json"
        write_json(path, {"generation": state.generation, "population": rows})

    def _best(self, scores: Mapping[SubnetSpec, float], limit: Limit) -> SubnetSpec:
        """The most accurate subnet within a limit; of several, the one that all evaluations together speak for."""
        problem = self._problem([limit])
        within = [spec for spec in scores if problem.feasible(spec)]
        if not within:
            raise ConstraintError(f"no subnet found with {problem.requirement}")
        return most_accurate(within, scores, self.cost)

    def _problem(self, limits: Sequence[Limit]) -> SubnetProblem:
        """The search among subnets within any of the limits, and at most `delta_ms` below the lowest latency."""
        bounds_ms = [limit.ms for limit in limits if limit.ms is not None]
        low_ms = self._low_ms(min(bounds_ms, default=None))

        def is_feasible(spec: SubnetSpec) -> bool:
            is_within = any(limit.allows(lambda kind: self.figures.figure(kind, spec)) for limit in limits)
            return is_within and (low_ms == 0.0 or low_ms <= self.figures.figure("ms", spec))

        loosest = {kind: max(limit.by_kind[kind] for limit in limits) for kind in kinds_of(limits)}
        requirement = self.figures.requirement(loosest, low_ms)
        return SubnetProblem(self.figures.member, is_feasible, requirement, self.cost, self.starts)

    def _low_ms(self, lowest_limit_ms: float | None) -> float:
        """The least latency in ms that is looked at."""
        delta_ms = self.recipe.delta_ms
        if delta_ms is None:
            return 0.0
        if lowest_limit_ms is None or delta_ms > lowest_limit_ms:
            allowed = "null where latency is not limited"
            if lowest_limit_ms is not None:
                allowed = f"above 0, up to the constraint {lowest_limit_ms:g} ms"
            raise ConfigError(f"recipe.subnet_search.delta_ms = {delta_ms:g}; allowed: {allowed}")
        return lowest_limit_ms - delta_ms


def most_accurate(
    specs: Sequence[SubnetSpec],
    scores: Mapping[SubnetSpec, float],
    cost: Callable[[SubnetSpec], float],
) -> SubnetSpec:
    """Return the subnet of the highest top-1; of several, that of the highest predicted top-1, then the cheapest.

    Few held-out images leave many ties, which their choices tell apart: what was good in other subnets is good here.
    """
    best = max(scores[spec] for spec in specs)
    equal = [spec for spec in specs if scores[spec] == best]
    predicted = predict_scores(equal, list(scores.items()))
    ranked = sorted(zip(equal, predicted, strict=True), key=lambda pair: (-pair[1], cost(pair[0])))
    return ranked[0][0]
