"""Stage subnet_search: the front of a trained supernet, accuracy against latency, and the best subnet of each limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from spaceevo.artifacts import file_hash, fingerprint, read_json, write_json
from spaceevo.collectives.sharing import Ranks
from spaceevo.errors import ConfigError, ConstraintError, choices
from spaceevo.nn.evaluate import Evaluation, SubnetEvaluator
from spaceevo.search.evolution import GenerationalEvolution, SearchState, Strategy, evolve
from spaceevo.search.front import FrontEvolution, Staircase, evenly, front
from spaceevo.search.prediction import ScorePrediction
from spaceevo.search.problems import SubnetProblem
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.base import Context, Outcome, StageCallback, progress
from spaceevo.stages.fitness import Fitness, by_text
from spaceevo.stages.front_files import Found, merge_jobs, write_fronts

METHODS = ("front", "published")


class SubnetSearchStage(StageCallback):
    """Finds the front of a supernet's subnets on each platform, and the best subnet within each latency constraint."""

    name = "subnet_search"
    main_figure = "chosen_top1"
    is_parallel = True

    def inputs(self, context: Context) -> dict[str, Path]:
        """The supernet, and the space search where it decides space and constraint."""
        best = context.layout.space_search(context.superspace.name) / "best.json"
        return {"supernet": context.supernet_file(context.int8), "best": best}

    def work(self, context: Context) -> Outcome:
        """Search on every platform; then test, extract and measure."""
        ranks, supernet = Ranks(), context.supernet(context.int8)
        evaluator = SubnetEvaluator(
            supernet,
            context.data.calibration_images(),
            context.data.held_out(),
            device=ranks.device,
            stop_z=context.recipe["stop_z"],
        )
        with ranks.leading(by_text(evaluator)):
            supernet_hash = file_hash(context.supernet_file(context.int8))
            stamp = fingerprint([context.plain["data"], context.plain["quant"], supernet_hash])
            fitness = Fitness(evaluator, context.output / f"evaluations_{stamp}.jsonl", ranks)
            platforms = _platforms(context)
            searches = [_Search(context, fitness, *platform) for platform in platforms.items()]
            found = [search.run() for search in searches]
            return write_fronts(context, supernet, found, platforms)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Join the fronts of a sweep's jobs (machines, seeds, constraints) into one."""
        merge_jobs(Path(config.hydra.sweep.dir))


def _platforms(context: Context) -> dict[str, Any]:
    """The platforms to search for, by name: `platforms` where it lists some, else the one `platform`."""
    listed = context.plain["platforms"]
    if not listed:
        return {str(context.config.platform.name): context.platform}
    return {str(name): instantiate(context.config.platforms[name]) for name in listed}


class _Search:
    """The search of one platform."""

    def __init__(self, context: Context, fitness: Fitness, name: str, platform: Any) -> None:
        self.context, self.fitness, self.name = context, fitness, name
        self.recipe = context.recipe
        if self.recipe["method"] not in METHODS:
            raise ConfigError(f"recipe.subnet_search.method = {self.recipe['method']!r}; allowed: {choices(METHODS)}")
        self.latency = Latencies(platform, context.member)
        self.limits = context.constraints_ms(name) or _searched_constraints(context)
        self.evaluations: dict[SubnetSpec, Evaluation] = {}
        self._check_limits(platform)

    def _check_limits(self, platform: Any) -> None:
        """Raise before anything is evaluated where it is known that no subnet meets the lowest limit."""
        lowest, fastest = min(self.limits), platform.fastest(self.context.member)
        if fastest is not None and self.latency(fastest) > lowest:
            raise ConstraintError(
                f"latency_constraint = {lowest:g} ms: the fastest subnet of {self.context.member} takes "
                f"{self.latency(fastest):.4g} ms on {self.name} ({fastest}); set it higher, or take another space"
            )

    def run(self) -> Found:
        """Search once for all limits, or as published once for each."""
        if self.recipe["method"] == "front":
            problem = self._problem(self._lowest(min(self.limits)), max(self.limits))
            self._evolve(FrontEvolution(problem, **self.recipe["front"]), Random(f"{self.context.seed}"), stops=True)
        else:
            for limit in self.limits:
                problem = self._problem(self._lowest(limit), limit)
                strategy = GenerationalEvolution(problem, **self.recipe["evolution"])
                self._evolve(strategy, Random(f"{self.context.seed}-{limit}"), stops=False)
        scores = {spec: found.top1 for spec, found in self.evaluations.items() if not found.stopped}
        points = [(self.latency(spec), score) for spec, score in scores.items()]
        best = [list(scores)[index] for index in front(points)]
        shown = evenly(best, [self.latency(spec) for spec in best], int(self.recipe["tested"]))
        chosen = {limit: self._best(scores, limit) for limit in self.limits}
        return Found(self.name, self.latency, self.evaluations, shown, chosen)

    def _evolve(self, strategy: Strategy[SubnetSpec], rng: Random, stops: bool) -> None:
        with progress() as bar:
            task = bar.add_task("subnet search", total=strategy.total)

            def show(spec: SubnetSpec, evaluation: Evaluation) -> None:
                self.evaluations[spec] = evaluation
                best = max(found.top1 for found in self.evaluations.values() if not found.stopped)
                text = f"subnets for {self.name}, best {best:.1f} %"
                bar.update(task, advance=1, description=text)

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
        """What the next generation descends from, for people: a search continues from its evaluations."""
        rows = [
            {"subnet": str(spec), "latency_ms": self.latency(spec), "held_out_top1": self.evaluations[spec].top1}
            for spec in [*state.population, *state.batch]
        ]
        path = self.context.output / f"population_{self.name}.json"
        write_json(path, {"generation": state.generation, "population": rows})

    def _best(self, scores: dict[SubnetSpec, float], limit_ms: float) -> SubnetSpec:
        """The most accurate subnet within a limit; of several, the one that all evaluations together speak for."""
        lowest = self._lowest(limit_ms)
        within = [spec for spec in scores if lowest <= self.latency(spec) <= limit_ms]
        if not within:
            raise ConstraintError(f"no subnet found with {self._requirement(lowest, limit_ms)}")
        return most_accurate(self.context.member, within, scores, self.latency)

    def _problem(self, low_ms: float, high_ms: float) -> SubnetProblem:
        def is_feasible(spec: SubnetSpec) -> bool:
            return low_ms <= self.latency(spec) <= high_ms

        return SubnetProblem(self.context.member, is_feasible, self._requirement(low_ms, high_ms), self.latency)

    def _requirement(self, low_ms: float, high_ms: float) -> str:
        smallest, largest = self.latency(self.context.member.smallest), self.latency(self.context.member.largest)
        return (
            f"latency in [{low_ms:g}, {high_ms:g}] ms on {self.name}; subnets of {self.context.member} take "
            f"{smallest:.4g} ms (smallest) to {largest:.4g} ms (largest); "
            "set latency_constraint, recipe.subnet_search.delta_ms"
        )

    def _lowest(self, limit_ms: float) -> float:
        delta = self.recipe["delta_ms"]
        if delta is None:
            return 0.0
        if not 0 < delta <= limit_ms:
            raise ConfigError(
                f"recipe.subnet_search.delta_ms = {delta}; allowed: above 0, up to the constraint {limit_ms} ms"
            )
        return float(limit_ms - delta)


def _searched_constraints(context: Context) -> list[float]:
    path = context.layout.space_search(context.superspace.name) / "best.json"
    if not path.exists():
        raise ConfigError("latency_constraint=auto takes the space search's, and there is none; set it in ms")
    return list(read_json(path)["latency_constraints_ms"])


def most_accurate(
    member: SpaceMember,
    specs: Sequence[SubnetSpec],
    scores: Mapping[SubnetSpec, float],
    latency_ms: Callable[[SubnetSpec], float],
) -> SubnetSpec:
    """The subnet of the highest top-1; of several, that of the highest predicted top-1, then the fastest.

    Few held-out images leave many ties, which their choices tell apart: what was good in other subnets is good here.
    """
    best = max(scores[spec] for spec in specs)
    equal = [spec for spec in specs if scores[spec] == best]
    predicted = ScorePrediction(member).predict(equal, list(scores.items()))
    ranked = sorted(zip(equal, predicted, strict=True), key=lambda pair: (-pair[1], latency_ms(pair[0])))
    return ranked[0][0]


class Latencies:
    """Predicted latency of subnets in ms, each computed once."""

    def __init__(self, platform: Any, member: SpaceMember) -> None:
        self.platform, self.member = platform, member
        self.known: dict[SubnetSpec, float] = {}

    def __call__(self, spec: SubnetSpec) -> float:
        """Latency of one subnet."""
        if spec not in self.known:
            self.known[spec] = float(self.platform.subnet_ms(self.member, spec))
        return self.known[spec]
