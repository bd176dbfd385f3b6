"""The search of one platform's front: which subnets are evaluated, which are shown, which is best within each limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from spaceevo.artifacts import write_json
from spaceevo.errors import ConfigError, ConstraintError
from spaceevo.nn.evaluate import Evaluation
from spaceevo.platforms.base import Platform
from spaceevo.search.evolution import GenerationalEvolution, SearchState, Strategy, evolve
from spaceevo.search.front import FrontEvolution, Staircase, evenly, front
from spaceevo.search.prediction import ScorePrediction
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


class FrontSearch:
    """Searches for one platform.

    Args:
        member: the space.
        name: name of the platform.
        platform: predicts latencies.
        limits: latency limits in ms.
        recipe: how to search.
        seed: decides what is sampled.
        fitness: evaluates subnets.
        output: folder of the file that says where the search stands.

    Raises:
        ConstraintError: it is known that no subnet meets the lowest limit; nothing has been evaluated then.
    """

    def __init__(
        self,
        member: SpaceMember,
        name: str,
        platform: Platform,
        limits: Sequence[float],
        recipe: SubnetSearchRecipe,
        seed: int,
        fitness: Fitness,
        output: Path,
    ) -> None:
        self.member = member
        self.name = name
        self.limits = limits
        self.recipe = recipe
        self.seed = seed
        self.fitness = fitness
        self.output = output
        self.latency = Latencies(platform, member)
        self.evaluations: dict[SubnetSpec, Evaluation] = {}
        lowest, fastest = min(limits), platform.fastest(member)
        if fastest is not None and self.latency(fastest) > lowest:
            raise ConstraintError(
                f"latency_constraint = {lowest:g} ms: the fastest subnet of {member} takes "
                f"{self.latency(fastest):.4g} ms on {name} ({fastest}); set it higher, or take another space"
            )

    def run(self) -> Found:
        """Search once for all limits, or as published once for each."""
        if self.recipe.method == "front":
            problem = self._problem(self._lowest(min(self.limits)), max(self.limits))
            how = self.recipe.front
            strategy = FrontEvolution(problem, how.population, how.generations, how.children, how.screened)
            self._evolve(strategy, Random(f"{self.seed}"), stops=True)
        else:
            for limit in self.limits:
                self._evolve(self._published(limit), Random(f"{self.seed}-{limit}"), stops=False)
        scores = {spec: found.top1 for spec, found in self.evaluations.items() if not found.stopped}
        points = [(self.latency(spec), score) for spec, score in scores.items()]
        best = [list(scores)[index] for index in front(points)]
        shown = evenly(best, [self.latency(spec) for spec in best], self.recipe.tested)
        chosen = {limit: self._best(scores, limit) for limit in self.limits}
        return Found(self.name, self.latency, self.evaluations, shown, chosen)

    def _published(self, limit_ms: float) -> GenerationalEvolution[SubnetSpec]:
        problem, how = self._problem(self._lowest(limit_ms), limit_ms), self.recipe.evolution
        return GenerationalEvolution(problem, how.population, how.generations, how.mutants, how.crossovers)

    def _evolve(self, strategy: Strategy[SubnetSpec], rng: Random, stops: bool) -> None:
        with progress() as bar:
            task = bar.add_task("subnet search", total=strategy.total)

            def show(spec: SubnetSpec, evaluation: Evaluation) -> None:
                self.evaluations[spec] = evaluation
                best = max(found.top1 for found in self.evaluations.values() if not found.stopped)
                bar.update(task, advance=1, description=f"subnets for {self.name}, best {best:.1f} %")

            def evaluate_batch(state: SearchState[SubnetSpec]) -> None:
                stairs = self._staircase() if stops else None
                self.fitness.evaluate(
                    state.batch, lambda spec: stairs(self.latency(spec)) if stairs else None, on_evaluation=show
                )
                self._save_population(state)

            evolve(strategy, lambda spec: self.evaluations[spec].top1, rng, on_batch=evaluate_batch)

    def _staircase(self) -> Staircase:
        """Top-1 that a subnet has to beat at its latency: the best of what is at least as fast."""
        return Staircase([(self.latency(spec), e.top1) for spec, e in self.evaluations.items() if not e.stopped])

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
        lowest = self._lowest(limit_ms)
        within = [spec for spec in scores if lowest <= self.latency(spec) <= limit_ms]
        if not within:
            raise ConstraintError(f"no subnet found with {self._requirement(lowest, limit_ms)}")
        return most_accurate(self.member, within, scores, self.latency)

    def _problem(self, low_ms: float, high_ms: float) -> SubnetProblem:
        def is_feasible(spec: SubnetSpec) -> bool:
            return low_ms <= self.latency(spec) <= high_ms

        return SubnetProblem(self.member, is_feasible, self._requirement(low_ms, high_ms), self.latency)

    def _requirement(self, low_ms: float, high_ms: float) -> str:
        smallest, largest = self.latency(self.member.smallest), self.latency(self.member.largest)
        return (
            f"latency in [{low_ms:g}, {high_ms:g}] ms on {self.name}; subnets of {self.member} take "
            f"{smallest:.4g} ms (smallest) to {largest:.4g} ms (largest); "
            "set latency_constraint, recipe.subnet_search.delta_ms"
        )

    def _lowest(self, limit_ms: float) -> float:
        """The lower end of latencies for a limit, in ms.

        Raises:
            ConfigError: it would be below 0.
        """
        delta = self.recipe.delta_ms
        if delta is None:
            return 0.0
        if delta > limit_ms:
            raise ConfigError(
                f"recipe.subnet_search.delta_ms = {delta:g}; allowed: above 0, up to the constraint {limit_ms:g} ms"
            )
        return limit_ms - delta


def most_accurate(
    member: SpaceMember,
    specs: Sequence[SubnetSpec],
    scores: Mapping[SubnetSpec, float],
    latency_ms: Callable[[SubnetSpec], float],
) -> SubnetSpec:
    """Return the subnet of the highest top-1; of several, that of the highest predicted top-1, then the fastest.

    Few held-out images leave many ties, which their choices tell apart: what was good in other subnets is good here.
    """
    best = max(scores[spec] for spec in specs)
    equal = [spec for spec in specs if scores[spec] == best]
    predicted = ScorePrediction(member).predict(equal, list(scores.items()))
    ranked = sorted(zip(equal, predicted, strict=True), key=lambda pair: (-pair[1], latency_ms(pair[0])))
    return ranked[0][0]


class Latencies:
    """Predicts the latency of subnets in ms, of each once."""

    def __init__(self, platform: Platform, member: SpaceMember) -> None:
        self.platform = platform
        self.member = member
        self.known: dict[SubnetSpec, float] = {}

    def __call__(self, spec: SubnetSpec) -> float:
        """Predict the latency of one subnet."""
        if spec not in self.known:
            self.known[spec] = self.platform.subnet_ms(self.member, spec)
        return self.known[spec]
