"""Answers what a platform is asked, from a table of block latencies."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from spaceevo.artifacts import Neutral, fingerprint
from spaceevo.artifacts.values import Channels, Name
from spaceevo.errors import ConfigError, TableError, choices
from spaceevo.latency.fastest import fastest_subnet
from spaceevo.latency.predictor import BlockLatency, FixedLatency
from spaceevo.latency.table import LatencyTable
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import PlacedBlock, fixed_blocks, subnet_blocks
from spaceevo.space.superspace import SpaceMember, Superspace

log = logging.getLogger(__name__)
WHERE = Neutral("latencies count by what the table says, wherever it lies")


class TableState(TypedDict):
    """Records what a platform predicted by: so many entries of its table, and a digest of them and the model."""

    entries: int
    digest: str


class Platform:
    """Predicts latencies from a table alone, as of the published platforms.

    Args:
        name: name of the platform.
        table: JSON file of the table.
        fixed_latency_ms: ms of first_conv, stage0 and head together where the table lacks one of their blocks; one
            number, or one for each resolution.
        unknown_blocks: what to do about blocks that the table lacks; a member of `unknown_choices`.
        packed_channels: channels to which files for this platform pack the pixels of narrow convolutions; null fills
            the matrix units of the machine that writes them, 1 packs none.
    """

    unknown_choices: tuple[str, ...] = ("error", "fitted")
    knows_latencies = True

    def __init__(
        self,
        name: Name,
        table: Annotated[str, WHERE],
        fixed_latency_ms: FixedLatency = None,
        unknown_blocks: Literal["error", "fitted", "auto", "measure"] = "error",
        packed_channels: Channels | None = None,
    ) -> None:
        if unknown_blocks not in self.unknown_choices:
            allowed = choices(self.unknown_choices)
            raise ConfigError(f"platform.unknown_blocks = {unknown_blocks!r}; allowed on {name}: {allowed}")
        self.name = name
        self.packed_channels = packed_channels
        self.path = Path(table).expanduser()
        self.unknown_blocks = unknown_blocks
        is_fitted = unknown_blocks in ("auto", "fitted")
        self.predictor = BlockLatency(self.known_table(), str(self.path), fixed_latency_ms, interpolate=is_fitted)
        self._warned = False
        # a published table does not say whose latencies it has
        self.measured_for = str(self.predictor.table.provenance.get("platform", name))
        if self.measured_for != name:
            log.warning(f"latency table {self.path} is of platform {self.measured_for}, not {name}")

    def require_latencies(self) -> None:
        """Refuse a platform that knows no latencies, with a `TableError`."""
        if not self.knows_latencies:
            raise TableError(
                f"platform={self.name} knows no latencies; limit something else (limit.mmacs, limit.mparams, "
                "limit.file_kb, limit.peak_ram_kb) and leave latency_constraint out, or take another platform"
            )

    def known_table(self) -> LatencyTable:
        """Read the table as it is now; raises `TableError` where it is missing or malformed."""
        if not self.path.exists():
            superspace = self.path.stem.removeprefix(f"{self.name}-")  # as shipped tables are named
            of = "" if superspace == self.path.stem else f"superspace={superspace} "
            raise TableError(
                f"platform {self.name} has no latency table at {self.path}; make it from published stage tables with: "
                f"python -m spaceevo +stage=fit_latency {of}platform={self.name} source=<folder of stage tables>; "
                "or set platform.table"
            )
        return LatencyTable.load(self.path)

    def table_state(self, entries: int | None = None) -> TableState:
        """Describe what predictions are made by, so that a later run can tell whether it still holds.

        The first `entries` count, or all: blocks measured since are appended and leave the state of those before.
        """
        table = self.predictor.table
        counted = list(islice(table.entries.items(), entries))
        costs = table.model.costs if table.model else None
        return {"entries": len(counted), "digest": fingerprint([counted, costs, asdict(table.correction)])}

    def ready(self, superspace: Superspace) -> None:
        """Get ready to predict networks of a superspace: a table is as it is."""

    def ensure(self, blocks: Iterable[PlacedBlock]) -> None:
        """Get ready to predict these blocks: a table has what it has."""

    def unmeasured(self, blocks: Iterable[PlacedBlock]) -> set[str]:
        """Return the keys of the blocks that `ensure` would measure: of a table none."""
        return set()

    def blocks_ms(self, blocks: Iterable[PlacedBlock]) -> float:
        """Predict the latency of blocks in a row in ms."""
        return self.rows_ms([list(blocks)])[0]

    def rows_ms(self, rows: Sequence[Sequence[PlacedBlock]]) -> list[float]:
        """Predict the latency in ms of each of many rows of blocks; what is to be measured is measured together."""
        self.ensure(block for row in rows for block in row)
        found = [self.predictor.blocks_ms(row) for row in rows]
        self._warn_of_interpolated()
        return found

    def subnet_ms(self, member: SpaceMember, spec: SubnetSpec) -> float:
        """Predict the latency of a subnet in ms."""
        return float(self.subnets_ms(member, [spec])[0])

    def subnets_ms(self, member: SpaceMember, specs: Sequence[SubnetSpec]) -> NDArray[np.float64]:
        """Predict the latency of subnets in ms, `(N,)`; raises `TableError` where blocks are unknown."""
        self.require_latencies()
        self.ready(member.superspace)
        try:
            found = self.predictor.predict_many(member, specs)
        except TableError:  # rare, so that predictions need not look for unknown blocks each time
            self.ensure(self.blocks_of(member, specs))
            found = self.predictor.predict_many(member, specs)
        self._warn_of_interpolated()
        return found

    def blocks_of(self, member: SpaceMember, specs: Iterable[SubnetSpec]) -> Iterator[PlacedBlock]:
        """List the blocks whose latency that of subnets needs: not those that `fixed_latency_ms` stands for."""
        all_count = self.predictor.fixed_latency_ms is None
        counted = {stage.name for stage in member.superspace.stages if all_count or stage.is_searched}
        for spec in specs:
            stages = [name for name, blocks in member.block_specs(spec).items() for _ in blocks]
            placed = zip(stages, subnet_blocks(member, spec), strict=True)
            yield from (block for stage, block in placed if stage in counted)

    def fastest(self, member: SpaceMember) -> SubnetSpec | None:
        """Find the subnet of the least predicted latency; None where some blocks of the space are not known yet."""
        self.require_latencies()
        self.ready(member.superspace)
        known = BlockLatency(self.predictor.table, interpolate=self.predictor.interpolate)
        try:
            return fastest_subnet(member, lambda spec, hw: known.blocks_ms([(spec, hw)]))
        except TableError:
            return None

    def fixed_ms(self, superspace: Superspace) -> dict[int, float]:
        """Predict the latency in ms of the stages that are not searched, at their smallest, by block resolution."""
        self.require_latencies()
        self.ready(superspace)
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

    def _warn_of_interpolated(self) -> None:
        if self.predictor.interpolated and not self._warned:
            self._warned = True
            log.warning(f"platform {self.name}: blocks that {self.path} lacks are interpolated by its fitted model")
