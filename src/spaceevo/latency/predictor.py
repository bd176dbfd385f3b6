"""Latency of subnets and sub-stages: the sum of their blocks' table entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from spaceevo.errors import TableError, choices
from spaceevo.latency.blocks import PlacedBlock, block_key, place, subnet_blocks
from spaceevo.latency.table import LatencyTable
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.spec import BlockSpec
from spaceevo.space.superspace import SpaceMember


class BlockLatency:
    """Predicts by adding up a table of block latencies.

    Args:
        table: the table; entries added to it count from then on.
        source: its file, for messages.
        fixed_latency_ms: ms that stand for all stages which are not searched (first_conv, stage0, head) where the table
            lacks one of their blocks; one number, or one for each resolution in pixels.
    """

    def __init__(
        self,
        table: LatencyTable,
        source: str = "",
        fixed_latency_ms: float | Mapping[int, float] | None = None,
    ) -> None:
        self.table = table
        self.fixed_latency_ms = fixed_latency_ms
        self.source = source

    @classmethod
    def load(cls, path: str | Path, fixed_latency_ms: float | Mapping[int, float] | None = None) -> BlockLatency:
        """Read a table from a JSON file.

        Raises:
            TableError: the file is missing or malformed.
        """
        return cls(LatencyTable.load(Path(path)), str(path), fixed_latency_ms)

    def predict(self, member: SpaceMember, spec: SubnetSpec) -> float:
        """Latency of a subnet in ms.

        Raises:
            EncodingError: `spec` is not a subnet of `member`.
            TableError: the table lacks blocks; names the first ones.
        """
        member.validate(spec)
        keys = subnet_keys(member, spec)
        entries = self.table.entries
        try:
            return sum([entries[key] for key in keys])
        except KeyError:
            return self._predict_with_fixed(member, spec, keys)

    def _predict_with_fixed(self, member: SpaceMember, spec: SubnetSpec, keys: Sequence[str]) -> float:
        stages = [stage for stage, specs in member.block_specs(spec).items() for _ in specs]
        is_searched = {stage.name: stage.is_searched for stage in member.superspace.stages}
        fixed = {key for key, stage in zip(keys, stages, strict=True) if not is_searched[stage]}
        what = f" of superspace {member.superspace.name}"
        if self.fixed_latency_ms is None or fixed <= self.table.entries.keys():
            return self._sum(keys, what)
        searched = [key for key, stage in zip(keys, stages, strict=True) if is_searched[stage]]
        return self._fixed_ms(spec.resolution) + self._sum(searched, what)

    def _fixed_ms(self, resolution: int) -> float:
        fixed = self.fixed_latency_ms
        if not isinstance(fixed, Mapping):
            return float(fixed or 0.0)
        if resolution not in fixed:
            raise TableError(
                f"platform.fixed_latency_ms has no entry for resolution {resolution}; it has {choices(fixed)}; add one"
            )
        return float(fixed[resolution])

    def stage_ms(self, specs: Iterable[BlockSpec], hw: int) -> float:
        """Latency in ms of blocks in a row, the first with an input of height and width `hw`.

        Raises:
            TableError: the table lacks blocks; names the first ones.
        """
        return self.blocks_ms(place(specs, hw))

    def blocks_ms(self, blocks: Iterable[PlacedBlock]) -> float:
        """Latency in ms of blocks wherever they stand.

        Raises:
            TableError: the table lacks blocks; names the first ones.
        """
        return self._sum([block_key(*block) for block in blocks])

    def _sum(self, keys: Sequence[str], what: str = "") -> float:
        entries = self.table.entries
        missing = [key for key in dict.fromkeys(keys) if key not in entries]
        if missing:
            raise TableError(
                f"latency table {self.source} lacks {len(missing)} of {len(set(keys))} blocks{what}: "
                f"{choices(missing, limit=3)}; platform=ort_cpu measures them, or set platform.table to one with them"
            )
        return sum([entries[key] for key in keys])

    def missing(self, blocks: Iterable[PlacedBlock]) -> dict[str, PlacedBlock]:
        """The blocks that the table lacks, by key: what is left to measure."""
        keyed = {block_key(*block): block for block in blocks}
        return {key: block for key, block in keyed.items() if key not in self.table.entries}


def subnet_keys(member: SpaceMember, spec: SubnetSpec) -> list[str]:
    """Table keys of every block of a subnet, heads included."""
    return [block_key(*placed) for placed in subnet_blocks(member, spec)]
