"""Latency of subnets and sub-stages: the sum of their blocks' table entries."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from spaceevo.errors import TableError, choices
from spaceevo.latency.blocks import PlacedBlock, block_key, subnet_blocks
from spaceevo.latency.table import LatencyTable
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember

_key = lru_cache(maxsize=1 << 18)(block_key)


class BlockLatency:
    """Predicts by adding up a table of block latencies.

    Args:
        table: the table.
        source: shown in messages.
    """

    def __init__(self, table: LatencyTable, source: str = "latency table") -> None:
        self.table = table
        self.source = source

    @classmethod
    def load(cls, path: str | Path) -> BlockLatency:
        """Read a table from a JSON file.

        Raises:
            TableError: the file is missing or malformed.
        """
        return cls(LatencyTable.load(Path(path)), str(path))

    def predict(self, member: SpaceMember, spec: SubnetSpec) -> float:
        """Latency of a subnet in ms.

        Raises:
            TableError: the table lacks a block; names the first ones.
        """
        return self.blocks_ms(subnet_blocks(member, spec))

    def blocks_ms(self, blocks: Iterable[PlacedBlock]) -> float:
        """Latency of blocks in a row, in ms.

        Raises:
            TableError: the table lacks a block; names the first ones.
        """
        keys = [_key(block) for block in blocks]
        entries = self.table.entries
        missing = [key for key in keys if key not in entries]
        if missing:
            raise TableError(
                f"{self.source} lacks {len(missing)} of {len(keys)} blocks: {choices(missing, 3)}; "
                "platform=ort_cpu measures what is missing, or set platform.table to a table that has them"
            )
        return float(sum(entries[key] for key in keys))

    def missing(self, blocks: Iterable[PlacedBlock]) -> dict[str, PlacedBlock]:
        """The blocks that the table lacks, by key."""
        keyed = {_key(block): block for block in blocks}
        return {key: block for key, block in keyed.items() if key not in self.table.entries}
