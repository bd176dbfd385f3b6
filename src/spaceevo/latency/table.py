"""Tables of block latencies, with what is known of their origin, and the model that fills their gaps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from spaceevo.artifacts import read_json, write_json
from spaceevo.errors import CheckpointError, TableError
from spaceevo.latency.roofline import Correction, Roofline

REMEDY = "delete it or set platform.table"


@dataclass
class LatencyTable:
    """Holds the latency in ms of every block by its key (`BlockType.key`)."""

    entries: dict[str, float] = field(default_factory=dict)  # block key → ms, of the block by itself
    # what `runtimes.machine.provenance` says and, where known, dispersion and error; none if published
    provenance: Mapping[str, object] = field(default_factory=dict)
    # block key → occurrences in the stage tables that an entry was recovered from
    counts: Mapping[str, int] = field(default_factory=dict)
    model: Roofline | None = None  # predicts blocks that have no entry
    # from blocks by themselves to blocks within a network; holds for entries and model
    correction: Correction = field(default_factory=Correction)

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read a table that `save` wrote, or a plain `{key: ms}` as published; raises `TableError` if it is neither."""
        if not path.is_file():
            raise TableError(
                f"latency table {path} does not exist; set platform.table, or platform=ort_cpu to measure blocks"
            )
        try:
            content = read_json(path)
        except CheckpointError as error:
            raise TableError(f"latency table {error}") from error
        if not isinstance(content, dict):
            raise TableError(f"latency table {path} must be an object {{block key: ms}}; {REMEDY}")
        parts = content if "blocks" in content else {"blocks": content}
        for part in ("blocks", "provenance", "counts", "model", "correction"):
            if not isinstance(parts.get(part, {}), dict):
                raise TableError(f"latency table {path}: {part} must be an object, not {parts[part]!r}; {REMEDY}")
        for key, value in parts["blocks"].items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise TableError(f"latency table {path}: {key} is {value!r}; it must be a positive number of ms")
        try:
            return cls(
                {key: float(value) for key, value in parts["blocks"].items()},
                parts.get("provenance", {}),
                parts.get("counts", {}),
                Roofline(parts["model"]) if parts.get("model") else None,
                Correction(**parts.get("correction", {})),
            )
        except TypeError as error:
            raise TableError(f"latency table {path}: correction: {error}; {REMEDY}") from error

    def save(self, path: Path) -> None:
        """Write the table atomically, its entries in the order in which they came."""
        parts: dict[str, object] = {"provenance": dict(self.provenance)}
        if self.model is not None:
            parts |= {"correction": asdict(self.correction), "model": self.model.costs}
        if self.counts:
            parts["counts"] = dict(sorted(self.counts.items()))
        write_json(path, {**parts, "blocks": self.entries})
