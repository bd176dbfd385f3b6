"""Job space_search: the space with the best Q-T score for one or several latency constraints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, Literal

from spaceevo.artifacts import Component, Plain, SpaceChoice, read_sealed_json, write_csv, write_sealed_json
from spaceevo.artifacts.values import Amount, PositiveShare
from spaceevo.errors import CheckpointError, ConfigError
from spaceevo.platforms.base import Platform
from spaceevo.report.spaces import SampledSpace, draw_distributions, draw_history, quantiles
from spaceevo.search.evolution import AgeingEvolution, LocalSearch, Strategy, evolve
from spaceevo.search.lut import lut_file_name, lut_keys
from spaceevo.search.optimum import OptimumSearch
from spaceevo.search.problems import SpaceProblem
from spaceevo.search.quality import Quality, QualityScorer
from spaceevo.space.description import parse_space
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.job import Input, Made, Outcome, file_input, platform_input
from spaceevo.stages.selection import SuperspaceJob
from spaceevo.stages.settings import Count, LatencyConstraint, Seed, SuperspaceSettings, Texts, limits_for, one_or_all
from spaceevo.terminal import console, print_rows, progress

AUTO_POINT = 0.35  # `latency_constraint=auto` lies this far from the fastest to the slowest subnet
AUTO_SAMPLES = 1000
SAVE_EVERY = 500  # Evaluations between two saves of a search; they take a fraction of a second
NO_LIMIT_MS = 1e9
TOP_SPACES = 50
SENSITIVE_SPACES = 10
COLUMNS = {name: name for name in ("space", "score", "probability", "loss", "fastest_ms", "slowest_ms")}
Row = dict[str, Any]


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
    a: tuple[Amount, ...]  # weights of the probability


@dataclass(frozen=True)
class SpaceSearchRecipe:
    """Says how spaces are searched and scored."""

    method: Literal["local", "ageing"]  # `local`, coordinate ascent, or `ageing`, the published evolution
    local: LocalRecipe
    ageing: AgeingRecipe
    prove: bool  # whether to prove that no space scores higher
    samples: Count  # subnets sampled of every space
    t: PositiveShare  # probability from which on more does not count
    a: Amount  # weight of the probability
    sensitivity: SensitivityRecipe  # other `t` and `a` to rank the best under


@dataclass(frozen=True, kw_only=True)
class SpaceSearchSettings(SuperspaceSettings):
    """Says what is searched, and for which latency."""

    platform: Component[Platform]  # whose latency the stages have that the tables lack
    seed: Seed  # decides what is sampled
    space: Texts  # spaces to score and compare instead of searching; none of them is chosen
    latency_constraint: LatencyConstraint  # latency limits in ms
    recipe: SpaceSearchRecipe  # how


class ScoredSpaces:
    """Keeps the spaces scored so far, each once, in order."""

    def __init__(self, scorer: QualityScorer) -> None:
        self.scorer = scorer
        self.qualities: dict[SpaceMember, Quality] = {}

    def score(self, member: SpaceMember) -> Quality:
        """Return the quality of a space, as known or computed now."""
        if member not in self.qualities:
            self.qualities[member] = self.scorer.score(member)
        return self.qualities[member]

    def ranked(self, score: Callable[[Quality], float] = lambda quality: quality.score) -> list[SpaceMember]:
        """Return all spaces, the highest score first."""
        return sorted(self.qualities, key=lambda member: -score(self.qualities[member]))

    def row(self, member: SpaceMember) -> Row:
        """Return a space's figures as a table has them; p and L of each constraint too where there are several."""
        quality = self.qualities[member]
        fastest, slowest = self.scorer.latency_range_ms(member)
        row = {"space": str(member), "score": quality.score, "probability": quality.probability, "loss": quality.loss}
        for part in quality.per_constraint if len(quality.per_constraint) > 1 else ():
            at = f"at_{part.constraint_ms:g}ms"
            row |= {f"score_{at}": part.score, f"probability_{at}": part.probability, f"loss_{at}": part.loss}
        return row | {"fastest_ms": fastest, "slowest_ms": slowest}

    def tables(self, t: Sequence[float], a: Sequence[float]) -> dict[str, list[Row]]:
        """Return the best spaces, how they rank under other `t` and `a` of the Q-T score, and all in order."""
        return {
            "spaces": [self.row(member) for member in self.ranked()[:TOP_SPACES]],
            "sensitivity": self._sensitivity(t, a),
            "history": [{"evaluation": n, **self.row(member)} for n, member in enumerate(self.qualities, start=1)],
        }

    def _sensitivity(self, ts: Sequence[float], exponents: Sequence[float]) -> list[Row]:
        """Score and rank the best few among all spaces under other constants; tell which is then best."""
        rows = []
        for t, a in product(ts, exponents):

            def score(quality: Quality, t: float = t, a: float = a) -> float:
                return quality.score_for(t, a)

            ranked = self.ranked(score)
            order = {member: rank for rank, member in enumerate(ranked, start=1)}
            for rank, member in enumerate(self.ranked()[:SENSITIVE_SPACES], start=1):
                row = {"t": t, "a": a, "rank": rank, "space": str(member), "score": score(self.qualities[member])}
                rows.append({**row, "new_rank": order[member], "new_best": str(ranked[0])})
        return rows

    def write(self, folder: Path, tables: dict[str, list[Row]]) -> dict[str, Path]:
        """Write tables and pictures; return their files by name."""
        outputs = {name: folder / f"{name}.csv" for name in tables}
        for name, rows in tables.items():
            write_csv(outputs[name], rows)
        best = self.ranked()[0]
        starts = SpaceProblem(self.scorer.superspace).starts()
        uniform = [self._sampled(member) for member in starts if member != best]
        outputs |= {name: folder / f"{name}.png" for name in ("distributions", "score_by_evaluation")}
        sampled, limits_ms = self._sampled(best), self.scorer.constraints_ms
        draw_distributions(outputs["distributions"], sampled, uniform, limits_ms)
        outputs["quantiles"] = folder / "quantiles.csv"
        write_csv(outputs["quantiles"], quantiles([sampled, *uniform], limits_ms))
        draw_history(outputs["score_by_evaluation"], [quality.score for quality in self.qualities.values()])
        return outputs

    def _sampled(self, member: SpaceMember) -> SampledSpace:
        return SampledSpace(str(member), *self.scorer.sampled(member))


class SpaceSearchJob(SuperspaceJob[SpaceSearchSettings]):
    """Finds the space with the best Q-T score for the latency constraints, or scores the spaces given."""

    name = "space_search"
    main_figure = "score"
    sweep_figures = ("score", "loss", "probability")
    platform = Made[Platform]()

    def check(self) -> None:
        """Tell also what is wrong with spaces that are given."""
        super().check()
        self._given()

    def inputs(self) -> Mapping[str, Input]:
        """Return the look-up tables, and the platform's."""
        names = [lut_file_name(self.superspace, key) for key in lut_keys(self.superspace)]
        tables = {name: file_input(self.workspace.lut / name) for name in names}
        return {"platform": platform_input(self.platform), **tables}

    def work(self) -> Outcome:
        """Search, or take the spaces given; then write tables and pictures of the best."""
        recipe, given = self.settings.recipe, self._given()
        spaces = ScoredSpaces(self._scorer())
        for member in given:
            spaces.score(member)
        if given:
            print_rows([spaces.row(member) for member in spaces.ranked()], COLUMNS, "spaces asked for, the best first")
        else:
            self._search(spaces)
        proof = self._prove(spaces) if recipe.prove else {}
        best = spaces.ranked()[0]
        fresh = spaces.scorer.fresh_scores(best)
        constraints_ms = spaces.scorer.constraints_ms
        figures = {
            **spaces.row(best),
            "score_standard_error": float(fresh.std(ddof=1)),
            "score_on_fresh_draws": float(fresh.mean()),
            "latency_constraints_ms": list(constraints_ms),
            "latency_constraint_ms": one_or_all(constraints_ms),
            "evaluations": len(spaces.qualities),
            **proof,
        }
        tables = spaces.tables(recipe.sensitivity.t, recipe.sensitivity.a)
        outputs = spaces.write(self.workspace.output, tables)
        if not given:  # given spaces are compared; no choice is made
            outputs["best"] = self.workspace.shared(self.workspace.layout.space_choice(self.superspace.name))
            quality = spaces.score(best)
            choice = SpaceChoice(str(best), constraints_ms, quality.score, quality.probability, quality.loss)
            choice.write(outputs["best"])
        following = self.workspace.commands("supernet", f"space={best}", without=("latency_constraint",))
        return Outcome({**figures, **tables}, outputs, following)

    def _given(self) -> list[SpaceMember]:
        """The spaces to score instead of searching; none to search."""
        asked = self.settings.space
        if asked == ():
            raise ConfigError("space = []; give encodings of spaces, or leave it out to search")
        return [parse_space(text, self.superspace) for text in ([asked] if isinstance(asked, str) else asked or ())]

    def _scorer(self) -> QualityScorer:
        """Make what scores spaces for the asked latency, or for one found by itself."""
        settings, recipe, lut = self.settings, self.settings.recipe, self.workspace.lut
        fixed_ms = self.platform.fixed_ms(self.superspace)
        limits = limits_for(self.platform.name, settings.latency_constraint)
        if limits is None:
            unlimited = QualityScorer(lut, self.superspace, [NO_LIMIT_MS], fixed_ms, samples=AUTO_SAMPLES)
            fastest, slowest = unlimited.latency_range_ms()
            limits = (float(f"{fastest + AUTO_POINT * (slowest - fastest):.3g}"),)
        return QualityScorer(
            lut, self.superspace, limits, fixed_ms, t=recipe.t, a=recipe.a, samples=recipe.samples, seed=settings.seed
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
            return saved["state"] if is_same else None
        except (CheckpointError, AttributeError, KeyError) as error:
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
