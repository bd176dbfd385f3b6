"""The search of one platform's front: which subnets are evaluated, which are shown, which is best within each limit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from random import Random
from typing import Literal

from spaceevo.artifacts import write_json
from spaceevo.errors import ConfigError, ConstraintError
from spaceevo.nn.evaluate import Evaluation
from spaceevo.platforms.base import Platform
from spaceevo.search.evolution import GenerationalEvolution, SearchState, Strategy, evolve
from spaceevo.search.front import FrontEvolution, Staircase, evenly, front, predict_scores
from spaceevo.search.problems import SubnetProblem
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.fitness import Fitness
from spaceevo.stages.settings import Count, Positive
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


@dataclass(frozen=True)
class Found:
    """Holds what the search for one platform found."""

    platform: str  # its name
    latency_ms: Callable[[SubnetSpec], float]  # predicted latency of a subnet
    evaluations: Mapping[SubnetSpec, Evaluation]  # all evaluated subnets
    front: Sequence[SubnetSpec]  # those of the front that are tested, the fastest first
    chosen: Mapping[float, SubnetSpec]  # the best subnet within each limit, in ms

    @property
    def shown(self) -> list[SubnetSpec]:
        """The front and the chosen ones, the fastest first."""
        return sorted(dict.fromkeys([*self.front, *self.chosen.values()]), key=self.latency_ms)


@dataclass
class FrontSearch:
    """Searches for one platform.

    Raises:
        ConstraintError: it is known that no subnet meets the lowest limit; nothing has been evaluated then.
    """

    member: SpaceMember  # the space
    name: str  # name of the platform
    platform: Platform  # predicts latencies
    limits: Sequence[float]  # latency limits in ms
    recipe: SubnetSearchRecipe  # how to search
    seed: int  # decides what is sampled
    fitness: Fitness  # evaluates subnets
    output: Path  # folder of the file that says where the search stands
    evaluations: dict[SubnetSpec, Evaluation] = field(default_factory=dict)  # those of this search

    def __post_init__(self) -> None:
        """Check the lowest limit."""
        lowest, fastest = min(self.limits), self.platform.fastest(self.member)
        if fastest is not None and self.latency(fastest) > lowest:
            raise ConstraintError(
                f"latency_constraint = {lowest:g} ms: the fastest subnet of {self.member} takes "
                f"{self.latency(fastest):.4g} ms on {self.name} ({fastest}); set it higher, or take another space"
            )

    @cached_property
    def latency(self) -> Callable[[SubnetSpec], float]:
        """Predicts the latency of a subnet in ms, of each once."""
        return cache(partial(self.platform.subnet_ms, self.member))

    def run(self) -> Found:
        """Search once for all limits, or as published once for each."""
        if self.recipe.method == "front":
            how, problem = self.recipe.front, self._problem(min(self.limits), max(self.limits))
            strategy = FrontEvolution(problem, how.population, how.generations, how.children, how.screened)
            self._evolve(strategy, Random(f"{self.seed}"), stops=True)
        for limit in self.limits if self.recipe.method == "published" else ():
            size, problem = self.recipe.evolution, self._problem(limit, limit)
            published = GenerationalEvolution(problem, size.population, size.generations, size.mutants, size.crossovers)
            self._evolve(published, Random(f"{self.seed}-{limit}"), stops=False)
        scores = {spec: found.top1 for spec, found in self.evaluations.items() if not found.stopped}
        points = [(self.latency(spec), score) for spec, score in scores.items()]
        best = [list(scores)[index] for index in front(points)]
        shown = evenly(best, [self.latency(spec) for spec in best], self.recipe.tested)
        chosen = {limit: self._best(scores, limit) for limit in self.limits}
        return Found(self.name, self.latency, self.evaluations, shown, chosen)

    def _evolve(self, strategy: Strategy[SubnetSpec], rng: Random, stops: bool) -> None:
        with progress() as bar:
            task = bar.add_task("subnet search", total=strategy.total)

            def show(spec: SubnetSpec, evaluation: Evaluation) -> None:
                self.evaluations[spec] = evaluation
                best = max(found.top1 for found in self.evaluations.values() if not found.stopped)
                bar.update(task, advance=1, description=f"subnets for {self.name}, best {best:.1f} %")

            def evaluate_batch(state: SearchState[SubnetSpec]) -> None:
                known = [(self.latency(s), e.top1) for s, e in self.evaluations.items() if not e.stopped]
                stairs = Staircase(known if stops else [])  # top-1 to beat at a latency: the best of all as fast
                self.fitness.evaluate(state.batch, lambda spec: stairs(self.latency(spec)), on_evaluation=show)
                self._save_population(state)

            evolve(strategy, lambda spec: self.evaluations[spec].top1, rng, on_batch=evaluate_batch)

    def _save_population(self, state: SearchState[SubnetSpec]) -> None:
        """Write what the next generation descends from, for people: a search continues from its evaluations."""
        rows = [
            {"subnet": str(spec), "latency_ms": self.latency(spec), "held_out_top1": self.evaluations[spec].top1}
            for spec in [*state.population, *state.batch]
        ]
        path = self.output / f"population_{self.name}.json"
        write_json(path, {"generation": state.generation, "population": rows})

    def _best(self, scores: Mapping[SubnetSpec, float], limit_ms: float) -> SubnetSpec:
        """The most accurate subnet within a limit; of several, the one that all evaluations together speak for."""
        problem = self._problem(limit_ms, limit_ms)
        within = [spec for spec in scores if problem.feasible(spec)]
        if not within:
            raise ConstraintError(f"no subnet found with {problem.requirement}")
        return most_accurate(within, scores, self.latency)

    def _problem(self, lowest_limit_ms: float, limit_ms: float) -> SubnetProblem:
        """The search among subnets within the highest limit, and at most `delta_ms` below the lowest."""
        delta_ms = self.recipe.delta_ms
        if delta_ms is not None and delta_ms > lowest_limit_ms:
            allowed = f"above 0, up to the constraint {lowest_limit_ms:g} ms"
            raise ConfigError(f"recipe.subnet_search.delta_ms = {delta_ms:g}; allowed: {allowed}")
        low_ms = 0.0 if delta_ms is None else lowest_limit_ms - delta_ms
        smallest, largest = self.latency(self.member.smallest), self.latency(self.member.largest)
        requirement = (
            f"latency in [{low_ms:g}, {limit_ms:g}] ms on {self.name}; subnets of {self.member} take "
            f"{smallest:.4g} ms (smallest) to {largest:.4g} ms (largest); "
            "set latency_constraint, recipe.subnet_search.delta_ms"
        )

        def is_feasible(spec: SubnetSpec) -> bool:
            return low_ms <= self.latency(spec) <= limit_ms

        return SubnetProblem(self.member, is_feasible, requirement, self.latency)


def most_accurate(
    specs: Sequence[SubnetSpec],
    scores: Mapping[SubnetSpec, float],
    latency_ms: Callable[[SubnetSpec], float],
) -> SubnetSpec:
    """Return the subnet of the highest top-1; of several, that of the highest predicted top-1, then the fastest.

    Few held-out images leave many ties, which their choices tell apart: what was good in other subnets is good here.
    """
    best = max(scores[spec] for spec in specs)
    equal = [spec for spec in specs if scores[spec] == best]
    predicted = predict_scores(equal, list(scores.items()))
    ranked = sorted(zip(equal, predicted, strict=True), key=lambda pair: (-pair[1], latency_ms(pair[0])))
    return ranked[0][0]
