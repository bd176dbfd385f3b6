"""Tells how another runtime differs from one whose blocks were measured, by a few networks measured whole in it.

The other's table tells each network's parts: its blocks, family by family, and its parameters. In the new runtime it
takes `Σ_p factor_p · ms_p`. Networks are too few to tell all factors apart, so that these are drawn to a common one:
what is least is the networks' squared relative error plus `strength · Σ_p (factor_p / common − 1)²`.
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

STRENGTH = 0.05
"""Of the drawing: networks are off by some 4 % of their own, and factors differ by some 18 %; squared, their ratio."""
Floats = NDArray[np.float64]


def parts_ms(model: Roofline, correction: Correction, networks: Sequence[Sequence[PlacedBlock]]) -> Floats:
    """Tell the parts of networks in ms, `(N, families + 1)`; raises `TableError` where the model lacks a family."""
    families = {family: column for column, family in enumerate(model.costs)}
    found = np.zeros((len(networks), len(families) + 1))
    for row, blocks in zip(found, networks, strict=True):
        for spec, hw in blocks:
            alone_ms = model.block_ms(spec, hw)
            row[families[family_of(spec)]] += correction.scale * alone_ms
        row[-1] = correction.ms_per_mparam * mparams_of(blocks)
    return found


class Factors(NamedTuple):
    """Holds by how much networks take longer in the new runtime."""

    common: float
    of_parts: Floats  # `(P,)`

    @classmethod
    def fit(cls, parts: Floats, latency_ms: Floats, strength: float) -> Factors:
        """Fit networks' parts, `(N, P)`, to their latencies, `(N,)`; no factor is below 0, all drawn to the common."""
        from scipy.optimize import nnls  # tables are read and used without it

        count = parts.shape[1]
        ratios = parts.sum(axis=1) / latency_ms
        alike = float(ratios.sum() / np.square(ratios).sum())  # where the squared relative error is least
        if math.isinf(strength):  # nothing but the common one
            return cls(alike, np.full(count, alike))
        measured = np.column_stack([np.zeros(len(parts)), parts / latency_ms[:, None]])
        drawn = np.column_stack([-np.ones(count), np.eye(count)]) * math.sqrt(strength) / alike
        wanted = np.concatenate([np.ones(len(parts)), np.zeros(count)])
        common, *of_parts = nnls(np.vstack([measured, drawn]), wanted)[0]
        return cls(float(common), np.array(of_parts))


@dataclass(frozen=True)
class Transfer:
    """Turns the table of one runtime into that of another, of which no block was measured."""

    table: LatencyTable  # of the new runtime
    common: float  # ms in the new runtime over ms in the other, of all that a network takes
    factors: dict[str, float]  # likewise, of each family
    error: PredictionError  # of each network, by the others

    @classmethod
    def fit(
        cls,
        known: LatencyTable,
        networks: Sequence[Sequence[PlacedBlock]],
        latency_ms: Sequence[float],
        strength: float = STRENGTH,
    ) -> Transfer:
        """Fit two or more networks measured whole.

        How much longer blocks take within a network than by themselves is taken to be as in the known table.

        Raises:
            TableError: the known table has no model, or that lacks a family or costs.
        """
        model, correction = known.model, known.correction
        if model is None:
            raise TableError("a table without a model tells nothing of another runtime; +stage=profile makes one")
        parts, measured_ms = parts_ms(model, correction, networks), np.asarray(latency_ms, np.float64)
        if not parts.any(axis=1).all():
            raise TableError("the model has blocks take no time at all; +stage=profile makes another")
        common, of_parts = Factors.fit(parts, measured_ms, strength)
        *of_families, of_parameters = of_parts.tolist()
        factors = dict(zip(model.costs, of_families, strict=True))
        ms_per_mparam = float(f"{of_parameters * correction.ms_per_mparam:.6g}")
        table = LatencyTable(model=model.scaled(factors), correction=Correction(correction.scale, ms_per_mparam))
        others_ms = [_by_others_ms(parts, measured_ms, strength, index) for index in range(len(parts))]
        return cls(table, common, factors, PredictionError.of(others_ms, latency_ms))


def _by_others_ms(parts: Floats, latency_ms: Floats, strength: float, index: int) -> float:
    """Predict a network in ms by the others."""
    others = np.arange(len(parts)) != index
    return float(parts[index] @ Factors.fit(parts[others], latency_ms[others], strength).of_parts)
