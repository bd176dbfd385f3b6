"""The spaces that a search has scored, and their tables and pictures."""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from spaceevo.artifacts import write_csv
from spaceevo.report.spaces import SampledSpace, draw_distributions, draw_history, quantiles
from spaceevo.search.limits import kinds_of, main_kind
from spaceevo.search.problems import SpaceProblem
from spaceevo.search.quality import Quality, QualityScorer
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.subnet_figures import column_of
from spaceevo.terminal import doing

SPACES = "scored spaces"  # A kind of work
TOP_SPACES = 50
SENSITIVE_SPACES = 10
COLUMNS = ("space", "score", "probability", "loss")
Row = dict[str, Any]


class ScoredSpaces:
    """Keeps the spaces scored so far, each once, in order."""

    def __init__(self, scorer: QualityScorer) -> None:
        self.scorer = scorer
        self.qualities: dict[SpaceMember, Quality] = {}

    def score(self, member: SpaceMember) -> Quality:
        """Return the quality of a space, as known or computed now."""
        if member not in self.qualities:
            with doing(SPACES):
                self.qualities[member] = self.scorer.score(member)
        return self.qualities[member]

    def ranked(self, score: Callable[[Quality], float] = lambda quality: quality.score) -> list[SpaceMember]:
        """Return all spaces, the highest score first."""
        return sorted(self.qualities, key=lambda member: -score(self.qualities[member]))

    def row(self, member: SpaceMember) -> Row:
        """Return a space's figures as a table has them; p and L of each constraint too where there are several."""
        quality = self.qualities[member]
        row = {"space": str(member), "score": quality.score, "probability": quality.probability, "loss": quality.loss}
        for part in quality.per_constraint if len(quality.per_constraint) > 1 else ():
            at = f"at_{part.limit.label}"
            row |= {f"score_{at}": part.score, f"probability_{at}": part.probability, f"loss_{at}": part.loss}
        return row | self._ranges(member)

    def _ranges(self, member: SpaceMember) -> Row:
        """Between which bounds the limited figures of a space's subnets lie."""
        found: Row = {}
        for kind in kinds_of(self.scorer.limits):
            if kind == "ms":
                found["fastest_ms"], found["slowest_ms"] = self.scorer.latency_range_ms(member)
            else:
                found[f"least_{kind}"], found[f"greatest_{kind}"] = self.scorer.demand_range(kind, member)
        return found

    def columns(self) -> dict[str, str]:
        """Return the columns of a printed table."""
        return {name: name for name in (*COLUMNS, *self._ranges(self.ranked()[0]))}

    def tables(self, t: Sequence[float], a: Sequence[float], most: int | None = TOP_SPACES) -> dict[str, list[Row]]:
        """Return the `most` best spaces, how they rank under other `t` and `a` of the Q-T score, and all in order."""
        return {
            "spaces": [self.row(member) for member in self.ranked()[:most]],
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
        axis = main_kind(self.scorer.limits)
        bounds = [limit.by_kind[axis] for limit in self.scorer.limits]
        sampled, column = self._sampled(best), column_of(axis)
        draw_distributions(outputs["distributions"], sampled, uniform, bounds, column)
        outputs["quantiles"] = folder / "quantiles.csv"
        write_csv(outputs["quantiles"], quantiles([sampled, *uniform], column))
        draw_history(outputs["score_by_evaluation"], [quality.score for quality in self.qualities.values()])
        return outputs

    def _sampled(self, member: SpaceMember) -> SampledSpace:
        """What the picture shows of a space; within are the subnets that the loosest limit allows."""
        limits, (loss, latency_ms) = self.scorer.limits, self.scorer.sampled(member)
        kinds = kinds_of(limits)
        figures = {kind: latency_ms if kind == "ms" else self.scorer.sampled_demand(kind, member) for kind in kinds}
        loosest = {kind: max(limit.by_kind[kind] for limit in limits) for kind in kinds}
        within = np.logical_and.reduce([figures[kind] <= loosest[kind] for kind in kinds])
        return SampledSpace(str(member), loss, figures[main_kind(limits)], within)
