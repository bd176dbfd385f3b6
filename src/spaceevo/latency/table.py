"""Tables of block latencies, with what is known of their origin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spaceevo.artifacts import read_json, write_json
from spaceevo.errors import CheckpointError, TableError


@dataclass
class LatencyTable:
    """Latency in ms of every block by its key (`BlockType.key`).

    Attributes:
        entries: block key → ms.
        provenance: platform, machine, runtime, version, threads, clock, date (`latency.measure.provenance`); a
            published table has none.
    """

    entries: dict[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read a table that `save` wrote, or a plain `{key: ms}` as published.

        Raises:
            TableError: the file is missing or no table, or an entry is not a latency; names file, key and value.
        """
        if not path.is_file():
            raise TableError(
                f"latency table {path} does not exist; set platform.table, or platform=ort_cpu to measure blocks"
            )
        try:
            content = read_json(path)
        except CheckpointError as error:
            raise TableError(f"latency table {error}") from error
        blocks, provenance = content, {}
        if isinstance(content, dict) and "blocks" in content:
            blocks, provenance = content["blocks"], content.get("provenance", {})
        if not isinstance(blocks, dict) or not isinstance(provenance, dict):
            raise TableError(
                f"latency table {path} must be an object {{block key: ms}}; delete it or set platform.table"
            )
        for key, value in blocks.items():
            if not _is_latency(value):
                raise TableError(f"latency table {path}: {key} is {value!r}; it must be a positive number of ms")
        return cls({key: float(value) for key, value in blocks.items()}, provenance)

    def save(self, path: Path) -> None:
        """Write the table atomically."""
        write_json(path, {"provenance": dict(self.provenance), "blocks": dict(sorted(self.entries.items()))})


def _is_latency(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
