"""Spaces with their scores, and what is told of them: rows of tables, ranks under other constants, pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from spaceevo.artifacts import write_csv
from spaceevo.report.spaces import SampledSpace, draw_distributions, draw_history
from spaceevo.search.problems import SpaceProblem
from spaceevo.search.quality import Quality, QualityScorer
from spaceevo.space.superspace import SpaceMember

TOP_SPACES = 50
SENSITIVE_SPACES = 10
Row = dict[str, Any]


class ScoredSpaces:
    """Keeps the spaces scored so far, each once, in order.

    Args:
        scorer: scores a space.
    """

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
        """How the best few would score and rank among all spaces under other constants, and which is then best."""
        top = self.ranked()[:SENSITIVE_SPACES]
        rows = []
        for t, a in product(ts, exponents):

            def score(quality: Quality, t: float = t, a: float = a) -> float:
                return quality.score_for(t, a)

            ranked = self.ranked(score)
            order = {member: rank for rank, member in enumerate(ranked, start=1)}
            for rank, member in enumerate(top, start=1):
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
        draw_distributions(outputs["distributions"], self._sampled(best), uniform, self.scorer.constraints_ms)
        draw_history(outputs["score_by_evaluation"], [quality.score for quality in self.qualities.values()])
        return outputs

    def _sampled(self, member: SpaceMember) -> SampledSpace:
        return SampledSpace(str(member), *self.scorer.sampled(member))
