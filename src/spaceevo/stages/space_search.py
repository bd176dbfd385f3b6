"""Stage space_search: the space with the best Q-T score for one or several latency constraints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
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
            for text in [asked] if isinstance(asked, str) else asked:
                spaces.score(parse_space(str(text), within=context.superspace))
        outputs = self._write(spaces, context, searched=asked is None)
        best, *_ = ranked = spaces.ranked()
        rows = [spaces.row(member) for member in ranked[:TOP_SPACES]]
        figures = {
            **{key: value for key, value in rows[0].items() if key != "space"},
            "score_standard_error": spaces.scorer.standard_error(best),
            "space": str(best),
            "latency_constraints_ms": list(spaces.scorer.constraints_ms),
            "latency_constraint_ms": spaces.scorer.constraints_ms[0],
            "evaluations": len(spaces.qualities),
        }
        if not isinstance(asked, list):  # several given spaces are compared; no choice is made
            outputs["best"] = context.shared(context.layout.space_search(context.superspace.name)) / "best.json"
            write_json(outputs["best"], figures)
        figures |= {"top_spaces": rows, "sensitivity": _best_by_setting(spaces, context)}
        return Outcome(figures, outputs, context.command("supernet", f"space={best}"))

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
        for member in state.history:
            spaces.score(member)

    def _write(self, spaces: _Spaces, context: Context, searched: bool) -> dict[str, Path]:
        """Write the tables and pictures; return them by name."""
        folder, best = context.output, spaces.ranked()[0]
        outputs = {"spaces": folder / "spaces.csv", "sensitivity": folder / "sensitivity.csv"}
        write_csv(outputs["spaces"], [spaces.row(member) for member in spaces.ranked()[:TOP_SPACES]])
        write_csv(outputs["sensitivity"], _sensitivity(spaces, context))
        outputs["distributions"] = folder / "distributions.png"
        uniform = [spaces.drawn(member) for member in SpaceProblem(context.superspace).starts() if member != best]
        draw_distributions(outputs["distributions"], spaces.drawn(best), uniform, spaces.scorer.constraints_ms)
        if searched:
            outputs |= {"history": folder / "history.csv", "score_by_evaluation": folder / "score_by_evaluation.png"}
            write_csv(outputs["history"], [{"space": str(m), **_figures(q)} for m, q in spaces.qualities.items()])
            draw_history(outputs["score_by_evaluation"], [q.score for q in spaces.qualities.values()])
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
        """A space's figures as a table has them."""
        fastest, slowest = self.scorer.latency_range_ms(member)
        figures = _figures(self.qualities[member])
        return {"space": str(member), **figures, "fastest_ms": fastest, "slowest_ms": slowest}

    def drawn(self, member: SpaceMember) -> DrawnSpace:
        """A space's drawn subnets."""
        return DrawnSpace(str(member), *self.scorer.drawn(member))


def _figures(quality: Quality) -> dict[str, float]:
    """Score, p and L; of each constraint too where there are several."""
    figures = {"score": quality.score, "probability": quality.probability, "loss": quality.loss}
    for part in quality.per_constraint if len(quality.per_constraint) > 1 else ():
        at = f"at_{part.constraint_ms:g}ms"
        figures |= {f"score_{at}": part.score, f"probability_{at}": part.probability, f"loss_{at}": part.loss}
    return figures


def _settings(context: Context) -> Iterable[tuple[float, float]]:
    asked = context.recipe["sensitivity"]
    return product(asked["t"], asked["a"])


def _sensitivity(spaces: _Spaces, context: Context) -> Rows:
    """Score and rank among all evaluated spaces of the best few, had t and a been other ones."""
    top, rows = spaces.ranked()[:SENSITIVE_SPACES], []
    for t, a in _settings(context):
        order = {member: rank for rank, member in enumerate(_ranked_for(spaces, t, a), start=1)}
        for rank, member in enumerate(top, start=1):
            score = spaces.qualities[member].score_for(t, a)
            rows.append({"t": t, "a": a, "space": str(member), "rank": rank, "score": score, "new_rank": order[member]})
    return rows


def _best_by_setting(spaces: _Spaces, context: Context) -> Rows:
    """The best of all evaluated spaces, had t and a been other ones."""
    rows = []
    for t, a in _settings(context):
        best = _ranked_for(spaces, t, a)[0]
        rows.append({"t": t, "a": a, "best_space": str(best), "score": spaces.qualities[best].score_for(t, a)})
    return rows


def _ranked_for(spaces: _Spaces, t: float, a: float) -> list[SpaceMember]:
    return spaces.ranked(lambda quality: quality.score_for(t, a))


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
