"""Job space_search: the space with the best Q-T score for one limit or several, of latency and other kinds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from spaceevo.artifacts import Component, Plain, SpaceChoice, read_sealed_json, values, write_sealed_json
from spaceevo.artifacts.values import PositiveShare, Share
from spaceevo.artifacts.work import Amount, Extent
from spaceevo.errors import CheckpointError, ConfigError, ConstraintError
from spaceevo.platforms.base import Platform
from spaceevo.search.evolution import AgeingEvolution, LocalSearch, SearchState, Strategy, evolve
from spaceevo.search.limits import ALL_SETTINGS, SETTINGS, Limit
from spaceevo.search.lut import lut_file_name, lut_keys
from spaceevo.search.optimum import OptimumSearch
from spaceevo.search.problems import SpaceProblem
from spaceevo.search.quality import NO_SUBNET_LOSS, Quality, QualityScorer
from spaceevo.search.sampled import NO_LIMIT_MS
from spaceevo.space.description import parse_space
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.job import Input, Made, Outcome, Workspace, file_input, platform_input
from spaceevo.stages.scored_spaces import SPACES, TOP_SPACES, ScoredSpaces
from spaceevo.stages.selection import SuperspaceJob
from spaceevo.stages.settings import (
    Count,
    LatencyConstraint,
    LimitSettings,
    Seed,
    SuperspaceSettings,
    Texts,
    joined_limits,
    limits_for,
    limits_for_any,
    one_or_all,
)
from spaceevo.terminal import console, print_rows, progress

AUTO_SAMPLES = 1000
SAVE_EVERY = 500  # Evaluations between two saves of a search; they take a fraction of a second


@dataclass(frozen=True)
class LocalRecipe:
    """Says how long coordinate ascent searches."""

    total: Count  # evaluations at most


@dataclass(frozen=True, kw_only=True)
class AgeingRecipe(LocalRecipe):
    """Says how ageing evolution searches."""

    population: Count  # spaces that live at a time
    sample: Count  # of them, those among which the fittest has children


@dataclass(frozen=True)
class SensitivityRecipe:
    """Says under which constants of the Q-T score the best spaces are ranked again."""

    t: tuple[PositiveShare, ...]  # probabilities from which on more does not count
    a: tuple[values.Amount, ...]  # weights of the probability


@dataclass(frozen=True)
class SpaceSearchRecipe:
    """Says how spaces are searched and scored."""

    method: Literal["local", "ageing"]  # `local`, coordinate ascent, or `ageing`, the published evolution
    local: LocalRecipe
    ageing: AgeingRecipe
    prove: bool  # whether to prove that no space scores higher
    samples: Count  # subnets sampled of every space
    t: PositiveShare  # probability from which on more does not count
    a: values.Amount  # weight of the probability
    auto_point: Share  # where the latency of `auto` lies from the fastest subnet to the slowest, 0 to 1
    sensitivity: SensitivityRecipe  # other `t` and `a` to rank the best under


@dataclass(frozen=True, kw_only=True)
class SpaceSearchSettings(SuperspaceSettings):
    """Says what is searched, and for which latency."""

    platform: Component[Platform]  # whose latency the stages have that the tables lack
    seed: Seed  # decides what is sampled
    space: Texts  # spaces to score and compare instead of searching; none of them is chosen
    latency_constraint: LatencyConstraint  # latency limits in ms
    limit: LimitSettings  # limits of other kinds, kept as well
    recipe: SpaceSearchRecipe  # how


class SpaceSearchJob(SuperspaceJob[SpaceSearchSettings]):
    """Finds the space with the best Q-T score for the latency constraints, or scores the spaces given."""

    name = "space_search"
    main_figure = "score"
    sweep_figures = ("score", "loss", "probability")
    platform = Made[Platform]()

    def __init__(self, settings: SpaceSearchSettings, workspace: Workspace) -> None:
        super().__init__(settings, workspace.set_apart("given") if settings.space else workspace)

    def check(self) -> None:
        """Tell also what is wrong with spaces that are given."""
        super().check()
        self._given()
        joined_limits(limits_for_any(self.settings.latency_constraint), self.settings.limit)
        if self._limits_latency:
            self.platform.require_latencies()

    def inputs(self) -> Mapping[str, Input]:
        """Return the look-up tables, and the platform's."""
        names = [lut_file_name(self.superspace, key) for key in lut_keys(self.superspace)]
        tables = {name: file_input(self.workspace.lut / name) for name in names}
        return {"platform": platform_input(self.platform), **tables} if self._limits_latency else tables

    def amounts(self) -> Mapping[str, Amount]:
        """Return the spaces to score."""
        recipe, given = self.settings.recipe, self._given()
        total = recipe.local.total if recipe.method == "local" else recipe.ageing.total
        return {SPACES: Amount(len(given) or total, recipe.samples)}

    def reduced(self, extent: Extent) -> Mapping[str, Plain]:
        """Score a few spaces."""
        few = 20 * extent.repeats
        ageing = {f"recipe.ageing.{name}": few for name in ("population", "sample", "total")}
        return {"recipe.local.total": few, **ageing}

    @property
    def _limits_latency(self) -> bool:
        """Whether a platform is asked for latencies: `auto` beside other limits sets none."""
        return self.settings.latency_constraint != "auto" or not joined_limits(None, self.settings.limit)

    def work(self) -> Outcome:
        """Search, or take the spaces given; then write tables and pictures of the best."""
        recipe, given = self.settings.recipe, self._given()
        spaces = ScoredSpaces(self._scorer())
        for member in given:
            spaces.score(member)
        if given:
            print_rows(
                [spaces.row(member) for member in spaces.ranked()], spaces.columns(), "spaces asked for, the best first"
            )
        else:
            self._search(spaces)
        proof = self._prove(spaces) if recipe.prove else {}
        best = spaces.ranked()[0]
        fresh = spaces.scorer.fresh_scores(best)
        constraints_ms, limits = spaces.scorer.constraints_ms, spaces.scorer.limits
        _require_subnets(spaces.score(best))
        figures = {
            **spaces.row(best),
            "score_standard_error": float(fresh.std(ddof=1)),
            "score_on_fresh_draws": float(fresh.mean()),
            "latency_constraints_ms": list(constraints_ms),
            "latency_constraint_ms": one_or_all(constraints_ms) if constraints_ms else None,
            **({"limits": " or ".join(map(str, limits))} if any(limit.demands for limit in limits) else {}),
            "evaluations": len(spaces.qualities),
            **proof,
        }
        tables = spaces.tables(recipe.sensitivity.t, recipe.sensitivity.a, None if given else TOP_SPACES)
        outputs = spaces.write(self.workspace.output, tables)
        if not given:  # given spaces are compared; no choice is made
            outputs["best"] = self.workspace.shared(self.workspace.layout.space_choice(self.superspace.name))
            quality = spaces.score(best)
            is_ms_alone = not any(limit.demands for limit in limits)
            others = () if is_ms_alone else tuple({str(kind): most for kind, most in it.most} for it in limits)
            choice = SpaceChoice(str(best), constraints_ms, quality.score, quality.probability, quality.loss, others)
            choice.write(outputs["best"])
        begins = () if self.workspace.layout.supernet(str(best), int8=False).exists() else ("quant=off",)  # in fp32
        following = self.workspace.commands("supernet", f"space={best}", *begins, without=ALL_SETTINGS)
        return Outcome({**figures, **tables}, outputs, following)

    def _given(self) -> list[SpaceMember]:
        """The spaces to score instead of searching; none to search."""
        asked = self.settings.space
        if asked == ():
            raise ConfigError("space = []; give encodings of spaces, or leave it out to search")
        return [parse_space(text, self.superspace) for text in ([asked] if isinstance(asked, str) else asked or ())]

    def _scorer(self) -> QualityScorer:
        """Make what scores spaces for the asked limits, or for a latency found by itself."""
        settings, recipe, lut = self.settings, self.settings.recipe, self.workspace.lut
        fixed_ms = self.platform.fixed_ms(self.superspace) if self._limits_latency else 0.0
        command = self.workspace.commands("block_lut", without=ALL_SETTINGS)
        asked_ms = limits_for(self.platform.name, settings.latency_constraint) if self._limits_latency else None
        limits = joined_limits(asked_ms, settings.limit)
        if not self._limits_latency:
            console.print(f"{self.name}: latency is not limited, and no platform is asked for any")
        if not limits:
            unlimited = QualityScorer(
                lut, self.superspace, [NO_LIMIT_MS], fixed_ms, samples=AUTO_SAMPLES, command=command
            )
            fastest, slowest = unlimited.latency_range_ms()
            limits = (Limit.of({"ms": float(f"{fastest + recipe.auto_point * (slowest - fastest):.3g}")}),)
        return QualityScorer(
            lut,
            self.superspace,
            limits,
            fixed_ms,
            t=recipe.t,
            a=recipe.a,
            samples=recipe.samples,
            seed=settings.seed,
            command=command,
        )

    def _strategy(self) -> Strategy[SpaceMember]:
        recipe, problem = self.settings.recipe, SpaceProblem(self.superspace)
        if recipe.method == "local":
            return LocalSearch(problem, recipe.local.total)
        return AgeingEvolution(problem, recipe.ageing.population, recipe.ageing.sample, recipe.ageing.total)

    def _search(self, spaces: ScoredSpaces) -> None:
        """Search; goes on where the same search was interrupted."""
        strategy = self._strategy()
        file = self.workspace.output / "search.json"
        resume = None if self.workspace.force else self._interrupted(file)
        origin = {"fingerprint": self.fingerprint, "inputs": self.states({})}
        with progress() as bar:
            task = bar.add_task("spaces", total=strategy.total)

            def show(done: int, total: int, best: tuple[SpaceMember, float]) -> None:
                bar.update(task, completed=done, total=total, description=f"spaces, best {best[1]:.4f}")

            state = evolve(
                strategy,
                lambda member: spaces.score(member).score,
                Random(self.settings.seed),
                resume=resume,
                save=lambda value: write_sealed_json(file, {**origin, "state": value}),
                save_every=SAVE_EVERY,
                on_evaluation=show,
            )
        # In order of evaluation, those before an interruption included.
        spaces.qualities = {member: spaces.score(member) for member in state.history}

    def _interrupted(self, file: Path) -> dict[str, Plain] | None:
        """The state of an interrupted search, if it began with the settings and inputs of this one."""
        try:
            saved = read_sealed_json(file) if file.exists() else {}
            inputs = saved.get("inputs")
            is_same = saved.get("fingerprint") == self.fingerprint and inputs == self.states(inputs or {})
            if not is_same:
                return None
            return SearchState.from_json(saved["state"], SpaceProblem(self.superspace).decode).to_json()
        except (CheckpointError, AttributeError, KeyError, TypeError) as error:
            console.print(f"{self.name}: starts over, since its state cannot be read: {error}")
            return None

    def _prove(self, spaces: ScoredSpaces) -> dict[str, object]:
        """Find the best of all spaces by branch and bound, and how near the best so far comes to it."""
        found = spaces.ranked()[0]
        with progress() as bar:
            task = bar.add_task("proof")

            def show(done: int, total: int, score: float) -> None:
                bar.update(task, completed=done, total=total, description=f"proof, best {score:.4f}")

            optimum = OptimumSearch(spaces.scorer, found, show).run()
        spaces.score(optimum.space)
        return {
            "optimum_space": str(optimum.space),
            "optimum_score": optimum.score,
            "search_reached_percent": 100 * spaces.score(found).score / optimum.score,
            "bounds": optimum.bounds,
        }


def _require_subnets(best: Quality) -> None:
    """Raise a `ConstraintError` where not even the best space has a sampled subnet within all of a limit."""
    for part in best.per_constraint:
        if part.loss == NO_SUBNET_LOSS:
            names = " and ".join(SETTINGS[kind] for kind, _ in part.limit.most)
            raise ConstraintError(
                f"{names}: no sampled subnet of any space found is within {part.limit}; each alone can be met, "
                "set one of them higher"
            )
