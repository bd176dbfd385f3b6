"""Tables of block latencies in ms, with what is known of their origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spaceevo.artifacts import read_json, write_json
from spaceevo.errors import TableError


@dataclass
class LatencyTable:
    """Block key → ms, and provenance: platform, machine, runtime, threads, clock, date."""

    entries: dict[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read a table: ours, or a plain `{key: ms}` as published.

        Raises:
            TableError: the file is missing, or an entry is not a positive number; names file, key and value.
        """
        if not path.is_file():
            raise TableError(f"latency table {path} does not exist; set platform.table, or run: python -m spaceevo +stage=block_lut")
        content = read_json(path)
        blocks = content.get("blocks", content) if isinstance(content, dict) else None
        if not isinstance(blocks, dict):
            raise TableError(f"latency table {path} must be an object of block keys and ms")
        for key, value in blocks.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
                raise TableError(f"latency table {path}: {key} = {value!r} is not a latency in ms")
        provenance = content.get("provenance", {}) if "blocks" in content else {}
        return cls({key: float(value) for key, value in blocks.items()}, provenance)

    def save(self, path: Path) -> None:
        """Write the table atomically."""
        write_json(path, {"provenance": dict(self.provenance), "blocks": dict(sorted(self.entries.items()))})
