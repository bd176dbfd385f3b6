"""Corrects blocks measured by themselves by networks that were measured whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from spaceevo.latency.accuracy import PredictionError
from spaceevo.latency.predictor import BlockLatency
from spaceevo.latency.roofline import Correction, mparams_of
from spaceevo.latency.table import LatencyTable
from spaceevo.space.placement import PlacedBlock


class WholeNetworks(NamedTuple):
    """Holds networks that were measured whole, each with what its blocks add up to."""

    sums_ms: list[float]  # of its blocks, each by itself
    mparams: list[float]
    latency_ms: list[float]

    @classmethod
    def of(
        cls, table: LatencyTable, networks: Sequence[Sequence[PlacedBlock]], latency_ms: Sequence[float]
    ) -> WholeNetworks:
        """Add up blocks by a table's entries and model; raises `TableError` where it has neither."""
        alone = BlockLatency(LatencyTable(table.entries, model=table.model), interpolate=True)
        return cls([alone.blocks_ms(it) for it in networks], [mparams_of(it) for it in networks], list(latency_ms))

    def correction(self) -> Correction:
        """Fit the relative error of all."""
        return Correction.fit(*self)

    def error(self) -> PredictionError:
        """Tell how far each is off when corrected by the others: what to expect of another network."""
        predicted_ms = []
        for index, (sum_ms, mparams, _) in enumerate(zip(*self, strict=True)):
            others = Correction.fit(*[values[:index] + values[index + 1 :] for values in self])
            predicted_ms.append(others.scale * sum_ms + others.ms_per_mparam * mparams)
        return PredictionError.of(predicted_ms, self.latency_ms)
