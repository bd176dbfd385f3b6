"""Tells how another runtime differs from one whose blocks were measured, by a few networks measured whole in it.

The other's model gives each block's ms. A network takes `Σ_f factor_f · ms_f + ms_per_mparam · MParams`, over the
families f of its blocks. Networks are fewer than would tell all factors, so that they are drawn to a common one: what
is least is the squared relative error of the networks plus `strength · Σ_f (factor_f / common − 1)²`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spaceevo.errors import TableError
from spaceevo.latency.accuracy import PredictionError
from spaceevo.latency.roofline import Correction, Roofline, family_of, mparams_of
from spaceevo.latency.table import LatencyTable
from spaceevo.space.placement import PlacedBlock

STRENGTHS = (math.inf, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""Of the drawing to a common factor, tried from the strongest, which leaves one factor for all, on."""
Floats = NDArray[np.float64]


class FamilySums(NamedTuple):
    """Holds networks that were measured whole, each with what a model says of its blocks, family by family."""

    families: tuple[str, ...]
    sums_ms: Floats  # `(N, F)`
    mparams: Floats  # `(N,)`
    latency_ms: Floats  # `(N,)`

    @classmethod
    def of(cls, model: Roofline, networks: Sequence[Sequence[PlacedBlock]], latency_ms: Sequence[float]) -> FamilySums:
        """Add up blocks by a model; raises `TableError` where it lacks a family."""
        families = tuple(model.costs)
        sums_ms = np.zeros((len(networks), len(families)))
        for row, blocks in zip(sums_ms, networks, strict=True):
            for block in blocks:
                ms = model.block_ms(*block)
                row[families.index(family_of(block[0]))] += ms
        mparams = np.array([mparams_of(blocks) for blocks in networks])
        return cls(families, sums_ms, mparams, np.asarray(latency_ms, np.float64))

    def without(self, index: int) -> FamilySums:
        """Leave one network out."""
        left = [np.delete(values, index, axis=0) for values in self[1:]]
        return FamilySums(self.families, *left)


class Factors(NamedTuple):
    """Holds by how much blocks take longer in the other runtime."""

    common: float
    of_families: Floats  # `(F,)`
    ms_per_mparam: float

    @classmethod
    def fit(cls, sums: FamilySums, strength: float) -> Factors:
        """Fit them, none negative, drawn so strongly to the common one."""
        from scipy.optimize import nnls  # tables are read and used without it

        count = len(sums.families)
        alike = Correction.fit(sums.sums_ms.sum(axis=1).tolist(), sums.mparams.tolist(), sums.latency_ms.tolist())
        if math.isinf(strength) or not alike.scale:
            return cls(alike.scale, np.full(count, alike.scale), alike.ms_per_mparam)
        measured = np.column_stack([np.zeros(len(sums.mparams)), sums.sums_ms, sums.mparams]) / sums.latency_ms[:, None]
        drawn = np.column_stack([-np.ones(count), np.eye(count), np.zeros(count)]) * math.sqrt(strength) / alike.scale
        wanted = np.concatenate([np.ones(len(measured)), np.zeros(count)])
        common, *of_families, ms_per_mparam = nnls(np.vstack([measured, drawn]), wanted)[0]
        return cls(float(common), np.array(of_families), float(ms_per_mparam))

    def predict(self, sums: FamilySums) -> Floats:
        """Predict the networks in ms, `(N,)`."""
        return np.asarray(sums.sums_ms @ self.of_families + self.ms_per_mparam * sums.mparams)


@dataclass(frozen=True)
class Transfer:
    """Turns the table of one runtime into that of another, of which no block was measured."""

    common: float  # ms of blocks in the other runtime's networks over the ms of the model's, of all families
    factors: dict[str, float]  # likewise, of each family
    ms_per_mparam: float
    strength: float  # of the drawing to the common factor; infinite where there is none but that
    error: PredictionError  # of each network, by the others: what the strength was chosen by

    @classmethod
    def fit(
        cls,
        model: Roofline,
        networks: Sequence[Sequence[PlacedBlock]],
        latency_ms: Sequence[float],
        strengths: Sequence[float] = STRENGTHS,
    ) -> Transfer:
        """Fit networks measured whole, two or more, as strongly drawn as predicts each of them best by the others.

        Raises:
            TableError: the model lacks a family, or the networks are not told by it at all.
        """
        sums = FamilySums.of(model, networks, latency_ms)
        errors = [_left_out(sums, strength) for strength in strengths]
        squares = [float(np.square(predicted / sums.latency_ms - 1).mean()) for predicted in errors]
        best = int(np.argmin(squares))
        found = Factors.fit(sums, strengths[best])
        if not found.common:
            raise TableError(
                f"latencies of {len(networks)} networks do not grow with what the model says of their blocks"
            )
        factors = dict(zip(sums.families, found.of_families.tolist(), strict=True))
        error = PredictionError.of(errors[best].tolist(), latency_ms)
        return cls(found.common, factors, found.ms_per_mparam, strengths[best], error)

    def applied(self, table: LatencyTable) -> LatencyTable:
        """Make the other runtime's table: a model without a measured block, and a correction.

        How much longer blocks take within a network than by themselves is taken from the given table.

        Raises:
            TableError: the given table has no model.
        """
        if table.model is None:
            raise TableError("a table without a model tells nothing of another runtime; +stage=profile makes one")
        scale = table.correction.scale
        model = table.model.scaled({family: factor / scale for family, factor in self.factors.items()})
        return LatencyTable(model=model, correction=Correction(scale, float(f"{self.ms_per_mparam:.6g}")))


def _left_out(sums: FamilySums, strength: float) -> Floats:
    """Predict each network in ms by the others, `(N,)`."""
    rows = [FamilySums(sums.families, *(values[i : i + 1] for values in sums[1:])) for i in range(len(sums.latency_ms))]
    return np.array([Factors.fit(sums.without(i), strength).predict(row)[0] for i, row in enumerate(rows)])
