"""Stage space_search: the space with the best Q-T score for one or several latency constraints."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from spaceevo.artifacts import write_json
from spaceevo.errors import ConfigError, choices
from spaceevo.search.evolution import AgeingEvolution, LocalSearch, SearchState, evolve
from spaceevo.search.lut import lut_file_name, lut_keys
from spaceevo.search.problems import SpaceProblem
from spaceevo.search.quality import QualityScorer
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.base import Context, Outcome, StageCallback, write_csv

AUTO_POINT = 0.35
"""`latency_constraint=auto` lies this far from the fastest to the slowest subnet."""
TOP_SPACES = 50


class SpaceSearchStage(StageCallback):
    """Finds the space with the best Q-T score for the latency constraints."""

    name = "space_search"
    main_figure = "score"

    def inputs(self, context: Context) -> dict[str, Path]:
        """The look-up tables."""
        return {
            n: context.lut_folder / n
            for n in (lut_file_name(context.superspace, k) for k in lut_keys(context.superspace))
        }

    def work(self, context: Context) -> Outcome:
        """Search, then write the best spaces."""
        recipe, superspace = context.recipe, context.superspace
        fixed_ms = context.platform.fixed_ms(superspace)
        constraints = context.constraints_ms() or [self._auto_constraint(context, fixed_ms)]
        scorer = QualityScorer(
            context.lut_folder,
            superspace,
            constraints,
            fixed_ms,
            t=recipe["t"],
            a=recipe["a"],
            samples=int(recipe["samples"]),
            seed=context.seed,
        )
        found = self._search(scorer, context)
        rows = [self._row(scorer, member) for member, _ in found.ranked()[:TOP_SPACES]]
        write_csv(context.output / "spaces.csv", rows)
        best, _ = found.best
        figures = {
            **{key: value for key, value in rows[0].items() if key != "space"},
            "score_standard_error": scorer.standard_error(best),
            "space": str(best),
            "latency_constraints_ms": constraints,
            "latency_constraint_ms": constraints[0],
            "evaluations": len(found.history),
        }
        folder = context.shared(context.layout.space_search(superspace.name))
        write_json(folder / "best.json", figures)
        outputs = {"spaces": context.output / "spaces.csv", "best": folder / "best.json"}
        return Outcome(figures, outputs, context.command("supernet", f"space={best}"))

    def _search(self, scorer: QualityScorer, context: Context) -> SearchState[SpaceMember]:
        recipe, problem = context.recipe, SpaceProblem(context.superspace)
        methods = {"local": LocalSearch, "ageing": AgeingEvolution}
        if recipe["method"] not in methods:
            raise ConfigError(f"recipe.space_search.method = {recipe['method']}; allowed: {choices(methods)}")
        strategy: Any = methods[recipe["method"]](problem, **recipe[recipe["method"]])
        return evolve(strategy, lambda member: scorer.score(member).score, Random(context.seed))

    def _row(self, scorer: QualityScorer, member: SpaceMember) -> dict[str, Any]:
        quality, (fastest, slowest) = scorer.score(member), scorer.latency_range_ms(member)
        return {
            "space": str(member),
            "score": quality.score,
            "probability": quality.probability,
            "loss": quality.loss,
            "fastest_ms": fastest,
            "slowest_ms": slowest,
        }

    def _auto_constraint(self, context: Context, fixed_ms: dict[int, float]) -> float:
        unlimited = QualityScorer(context.lut_folder, context.superspace, [1e9], fixed_ms, samples=1000)
        fastest, slowest = unlimited.fastest_ms, unlimited.slowest_ms
        return float(f"{fastest + AUTO_POINT * (slowest - fastest):.3g}")
