"""What every platform answers, from a table of block latencies."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spaceevo.artifacts import fingerprint
from spaceevo.errors import ConfigError, TableError, choices
from spaceevo.latency.predictor import BlockLatency, FixedLatency
from spaceevo.latency.table import LatencyTable
from spaceevo.search.fastest import fastest_subnet
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import PlacedBlock, fixed_blocks
from spaceevo.space.superspace import SpaceMember, Superspace

log = logging.getLogger(__name__)


class Platform:
    """A platform known by its table alone, as the published ones are.

    Args:
        name: name of the platform.
        table: JSON file of the table.
        fixed_latency_ms: ms of first_conv, stage0 and head together where the table lacks one of their blocks; one
            number, or one for each resolution.
        unknown_blocks: what to do about blocks that the table lacks; a member of `unknown_choices`.
    """

    unknown_choices: tuple[str, ...] = ("error", "fitted")

    def __init__(
        self, name: str, table: str, fixed_latency_ms: FixedLatency = None, unknown_blocks: str = "error"
    ) -> None:
        if unknown_blocks not in self.unknown_choices:
            allowed = choices(self.unknown_choices)
            raise ConfigError(f"platform.unknown_blocks = {unknown_blocks!r}; allowed on {name}: {allowed}")
        self.name = name
        self.path = Path(table).expanduser()
        self.unknown_blocks = unknown_blocks
        self.predictor = BlockLatency(
            self.known_table(), str(self.path), fixed_latency_ms, interpolate=unknown_blocks == "fitted"
        )
        self.has_warned = False
        if self.measured_for != name:
            log.warning(f"latency table {self.path} is of platform {self.measured_for}, not {name}")

    @property
    def measured_for(self) -> str:
        """The platform whose latencies the table says it has; a published table says nothing."""
        return str(self.predictor.table.provenance.get("platform", self.name))

    def known_table(self) -> LatencyTable:
        """The table as it is now.

        Raises:
            TableError: it is missing or malformed.
        """
        if not self.path.exists():
            raise TableError(
                f"platform {self.name} has no latency table at {self.path}; make it from published stage tables with: "
                f"python -m spaceevo +stage=fit_latency platform={self.name} source=<folder of stage tables>; "
                "or set platform.table"
            )
        return LatencyTable.load(self.path)

    @property
    def stamp(self) -> str:
        """Changes where predictions may."""
        return fingerprint([self.predictor.table.entries, *self._model])

    @property
    def _model(self) -> list[object]:
        table = self.predictor.table
        return [table.model.costs if table.model else None, asdict(table.correction)]

    def ensure(self, blocks: Iterable[PlacedBlock]) -> None:
        """Get ready to predict these blocks: a table has what it has."""

    def blocks_ms(self, blocks: Iterable[PlacedBlock]) -> float:
        """Latency of blocks in a row in ms.

        Raises:
            TableError: blocks are unknown.
        """
        placed = list(blocks)
        self.ensure(placed)
        found = self.predictor.blocks_ms(placed)
        self._warn()
        return found

    def subnet_ms(self, member: SpaceMember, spec: SubnetSpec) -> float:
        """Predicted latency of a subnet in ms; raises as `subnets_ms`."""
        return float(self.subnets_ms(member, [spec])[0])

    def subnets_ms(self, member: SpaceMember, specs: Sequence[SubnetSpec]) -> NDArray[np.float64]:
        """Predicted latency of subnets in ms, `(N,)`.

        Raises:
            EncodingError: one is not a subnet of `member`.
            TableError: blocks are unknown.
        """
        found = self.predictor.predict_many(member, specs)
        self._warn()
        return found

    def fastest(self, member: SpaceMember) -> SubnetSpec | None:
        """The subnet of the least predicted latency; None where some blocks of the space are not known yet."""
        known = BlockLatency(self.predictor.table, interpolate=self.predictor.interpolate)
        try:
            return fastest_subnet(member, lambda spec, hw: known.blocks_ms([(spec, hw)]))
        except TableError:
            return None

    def fixed_ms(self, superspace: Superspace) -> dict[int, float]:
        """Latency in ms of the stages that are not searched, at their smallest, by block resolution.

        Raises:
            TableError: neither the table nor `fixed_latency_ms` knows it.
        """
        return {resolution: self._fixed_ms(superspace, resolution) for resolution in superspace.block_resolutions}

    def _fixed_ms(self, superspace: Superspace, resolution: int) -> float:
        blocks = fixed_blocks(superspace, resolution)
        if self.predictor.missing(blocks):
            if self.predictor.fixed_latency_ms is not None:
                return self.predictor.fixed_ms(resolution)
            self.ensure(blocks)
        if self.predictor.missing(blocks):
            raise self.predictor.unknown(blocks, superspace.name, only_fixed=True)
        return self.blocks_ms(blocks)

    def _warn(self) -> None:
        """Say once that latencies are the model's."""
        if self.predictor.interpolated and not self.has_warned:
            self.has_warned = True
            source = self.predictor.source
            log.warning(f"platform {self.name}: blocks that {source} lacks are interpolated by its fitted model")
