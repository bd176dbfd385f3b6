"""Stage space_search: the space with the best Q-T score for one or several latency constraints."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from omegaconf import DictConfig

from spaceevo.artifacts import file_hash, fingerprint, read_json, write_json
from spaceevo.errors import ConfigError, SpaceEvoError, choices
from spaceevo.report.spaces import DrawnSpace, draw_distributions, draw_history
from spaceevo.search.evolution import AgeingEvolution, LocalSearch, evolve
from spaceevo.search.lut import lut_file_name, lut_keys
from spaceevo.search.optimum import OptimumSearch
from spaceevo.search.problems import SpaceProblem
from spaceevo.search.quality import Quality, QualityScorer
from spaceevo.space.description import parse_space
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.base import Context, Outcome, StageCallback, progress, write_csv
from spaceevo.stages.sweep import compare_jobs

AUTO_POINT = 0.35
"""`latency_constraint=auto` lies this far from the fastest to the slowest subnet."""
TOP_SPACES = 50
SENSITIVE_SPACES = 10
SAVE_EVERY = 500
"""Evaluations between two saves of a search; they take a fraction of a second."""
Rows = list[dict[str, Any]]


class SpaceSearchStage(StageCallback):
    """Finds the space with the best Q-T score for the latency constraints, or scores the spaces given."""

    name = "space_search"
    main_figure = "score"

    def __init__(self) -> None:
        self._sweep_started = 0.0

    def inputs(self, context: Context) -> dict[str, Path]:
        """The look-up tables."""
        return {
            n: context.lut_folder / n
            for n in (lut_file_name(context.superspace, k) for k in lut_keys(context.superspace))
        }

    def work(self, context: Context) -> Outcome:
        """Search, or take the spaces given; then write tables and pictures of the best."""
        spaces = _Spaces(_scorer(context))
        asked = context.plain["space"]
        if asked is None:
            self._search(spaces, context)
        else:
            given = [asked] if isinstance(asked, str) else list(asked)
            if not given:
                raise ConfigError("space = []; give encodings of spaces, or leave it out to search")
            for text in given:
                spaces.score(parse_space(str(text), within=context.superspace))
        proof = self._prove(spaces) if context.recipe["prove"] else {}
        best = spaces.ranked()[0]
        fresh = spaces.scorer.fresh_scores(best)
        figures = {
            **{key: value for key, value in spaces.row(best).items() if key != "space"},
            "score_standard_error": float(fresh.std(ddof=1)),
            "score_on_fresh_draws": float(fresh.mean()),
            "space": str(best),
            "latency_constraints_ms": list(spaces.scorer.constraints_ms),
            "latency_constraint_ms": spaces.scorer.constraints_ms[0],
            "evaluations": len(spaces.qualities),
            **proof,
        }
        tables = {
            "spaces": [spaces.row(member) for member in spaces.ranked()[:TOP_SPACES]],
            "sensitivity": _sensitivity(spaces, context),
            "history": [{"evaluation": n, **spaces.row(member)} for n, member in enumerate(spaces.qualities, start=1)],
        }
        outputs = self._write(spaces, context.output, tables)
        if not isinstance(asked, list):  # several given spaces are compared; no choice is made
            outputs["best"] = context.shared(context.layout.space_search(context.superspace.name)) / "best.json"
            write_json(outputs["best"], figures)
        return Outcome({**figures, **tables}, outputs, context.command("supernet", f"space={best}"))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember when the sweep began: jobs of earlier ones lie in the same folder."""
        self._sweep_started = time.time()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Compare the jobs in one table and picture; Hydra would turn an exception here into a warning."""
        try:
            compare_jobs(config, self.name, self._sweep_started, ("score", "loss", "probability"))
        except SpaceEvoError as error:
            raise SystemExit(f"error: {error}") from None

    def _search(self, spaces: _Spaces, context: Context) -> None:
        """Search; continues where the same search was interrupted."""
        recipe, problem = context.recipe, SpaceProblem(context.superspace)
        methods = {"local": LocalSearch, "ageing": AgeingEvolution}
        if recipe["method"] not in methods:
            raise ConfigError(f"recipe.space_search.method = {recipe['method']}; allowed: {choices(methods)}")
        strategy: Any = methods[recipe["method"]](problem, **recipe[recipe["method"]])
        saved_file, scorer = context.output / "search.json", spaces.scorer
        stamp = fingerprint(
            [recipe, scorer.constraints_ms, scorer.fixed_latency_ms, context.seed]
            + [file_hash(path) for path in self.inputs(context).values()]
        )
        saved = read_json(saved_file) if saved_file.exists() else {}
        with progress() as bar:
            task = bar.add_task("spaces", total=strategy.total)

            def show(done: int, total: int, best: tuple[SpaceMember, float]) -> None:
                bar.update(task, completed=done, total=total, description=f"spaces, best {best[1]:.4f}")

            state = evolve(
                strategy,
                lambda member: spaces.score(member).score,
                Random(context.seed),
                resume=saved["state"] if saved.get("stamp") == stamp else None,
                save=lambda value: write_json(saved_file, {"stamp": stamp, "state": value}),
                save_every=SAVE_EVERY,
                on_evaluation=show,
            )
        # In order of evaluation, those before an interruption included.
        spaces.qualities = {member: spaces.score(member) for member in state.history}

    def _prove(self, spaces: _Spaces) -> dict[str, Any]:
        """Find the best of all spaces by branch and bound, and how near the best so far comes to it."""
        found = spaces.ranked()[0]
        with progress() as bar:
            task = bar.add_task("proof")

            def show(done: int, total: int, score: float) -> None:
                bar.update(task, completed=done, total=total, description=f"proof, best {score:.4f}")

            optimum = OptimumSearch(spaces.scorer, found, show).run()
        share = 100 * spaces.score(found).score / optimum.score
        spaces.score(optimum.space)
        return {
            "optimum_space": str(optimum.space),
            "optimum_score": optimum.score,
            "search_reached_percent": share,
            "bounds": optimum.bounds,
        }

    def _write(self, spaces: _Spaces, folder: Path, tables: dict[str, Rows]) -> dict[str, Path]:
        """Write tables and pictures; return their files by name."""
        outputs = {name: folder / f"{name}.csv" for name in tables}
        for name, rows in tables.items():
            write_csv(outputs[name], rows)
        best, scores = spaces.ranked()[0], [quality.score for quality in spaces.qualities.values()]
        starts = SpaceProblem(spaces.scorer.superspace).starts()
        uniform = [spaces.drawn(member) for member in starts if member != best]
        outputs |= {name: folder / f"{name}.png" for name in ("distributions", "score_by_evaluation")}
        draw_distributions(outputs["distributions"], spaces.drawn(best), uniform, spaces.scorer.constraints_ms)
        draw_history(outputs["score_by_evaluation"], scores)
        return outputs


class _Spaces:
    """Spaces scored so far, each once, in order."""

    def __init__(self, scorer: QualityScorer) -> None:
        self.scorer = scorer
        self.qualities: dict[SpaceMember, Quality] = {}

    def score(self, member: SpaceMember) -> Quality:
        """Quality of a space, as known or computed now."""
        if member not in self.qualities:
            self.qualities[member] = self.scorer.score(member)
        return self.qualities[member]

    def ranked(self, score: Callable[[Quality], float] = lambda quality: quality.score) -> list[SpaceMember]:
        """All spaces, the highest score first."""
        return sorted(self.qualities, key=lambda member: -score(self.qualities[member]))

    def row(self, member: SpaceMember) -> dict[str, Any]:
        """A space's figures as a table has them; p and L of each constraint too where there are several."""
        quality, (fastest, slowest) = self.qualities[member], self.scorer.latency_range_ms(member)
        row = {"space": str(member), "score": quality.score, "probability": quality.probability, "loss": quality.loss}
        for part in quality.per_constraint if len(quality.per_constraint) > 1 else ():
            at = f"at_{part.constraint_ms:g}ms"
            row |= {f"score_{at}": part.score, f"probability_{at}": part.probability, f"loss_{at}": part.loss}
        return row | {"fastest_ms": fastest, "slowest_ms": slowest}

    def drawn(self, member: SpaceMember) -> DrawnSpace:
        """A space's drawn subnets."""
        return DrawnSpace(str(member), *self.scorer.drawn(member))


def _sensitivity(spaces: _Spaces, context: Context) -> Rows:
    """How the best few would score and rank among all evaluated spaces under other t and a, and which is then best."""
    top, asked, rows = spaces.ranked()[:SENSITIVE_SPACES], context.recipe["sensitivity"], []
    for t, a in product(asked["t"], asked["a"]):

        def score(quality: Quality, t: float = t, a: float = a) -> float:
            return quality.score_for(t, a)

        ranked = spaces.ranked(score)
        order = {member: rank for rank, member in enumerate(ranked, start=1)}
        for rank, member in enumerate(top, start=1):
            row = {"t": t, "a": a, "rank": rank, "space": str(member), "score": score(spaces.qualities[member])}
            rows.append({**row, "new_rank": order[member], "new_best": str(ranked[0])})
    return rows


def _scorer(context: Context) -> QualityScorer:
    recipe, superspace = context.recipe, context.superspace
    fixed_ms = context.platform.fixed_ms(superspace)
    constraints = context.constraints_ms()
    if constraints is None:
        unlimited = QualityScorer(context.lut_folder, superspace, [1e9], fixed_ms, samples=1000)
        fastest, slowest = unlimited.fastest_ms, unlimited.slowest_ms
        constraints = [float(f"{fastest + AUTO_POINT * (slowest - fastest):.3g}")]
    settings = {"t": recipe["t"], "a": recipe["a"], "samples": int(recipe["samples"]), "seed": context.seed}
    return QualityScorer(context.lut_folder, superspace, constraints, fixed_ms, **settings)
