"""Tables of block latencies, with what is known of their origin, and the model that fills their gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from spaceevo.artifacts import read_sealed_json, write_sealed_json
from spaceevo.errors import CheckpointError, TableError, nearest
from spaceevo.latency.roofline import KINDS, Correction, Roofline

REMEDY = "delete it or set platform.table"
LEAST_MS, MOST_MS = 1e-9, 1e9


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

    @property
    def is_corrected(self) -> bool:
        """Whether whole networks were measured to correct blocks by themselves, be it that they need none."""
        return self.correction != Correction() or "correction_networks" in self.provenance

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read a table that `save` wrote, or a plain `{key: ms}` as published; raises `TableError` if it is neither.

        So does one that is not as it was saved; where its first line, the checksum, is gone, it is taken as it is.
        """
        if not path.is_file():
            fault = "is no file; remove it, or" if path.exists() else "does not exist;"
            raise TableError(f"latency table {path} {fault} set platform.table, or platform=ort_cpu to measure blocks")
        try:
            content = read_sealed_json(path)
        except CheckpointError as error:
            told = str(error).removesuffix("; make it again")
            raise TableError(f"latency table {told}; {REMEDY}") from error
        if not isinstance(content, dict):
            raise TableError(f"latency table {path} must be an object {{block key: ms}}; {REMEDY}")
        parts = _parts(path, content)
        for part in ("blocks", "provenance", "counts", "model", "correction"):
            if not isinstance(value := parts.get(part, {}), dict):
                raise TableError(f"latency table {path}: {part} must be an object, not {str(value)[:80]}; {REMEDY}")
        if unknown := parts.get("correction", {}).keys() - {each.name for each in fields(Correction)}:
            raise TableError(f"latency table {path}: correction has no {min(unknown)[:80]}; {REMEDY}")
        for part, least in (("blocks", LEAST_MS), ("counts", 0.0), ("correction", 0.0)):
            _check_numbers(path, part, parts.get(part, {}), least)
        for family, costs in parts.get("model", {}).items():
            _check_costs(path, f"model of {family[:80]}", costs)
        return cls(
            {key: float(value) for key, value in parts["blocks"].items()},
            parts.get("provenance", {}),
            parts.get("counts", {}),
            Roofline(parts["model"]) if parts.get("model") else None,
            Correction(**parts.get("correction", {})),
        )

    def save(self, path: Path) -> None:
        """Write the table atomically, with a checksum, its entries in the order in which they came."""
        parts: dict[str, object] = {"provenance": dict(self.provenance)}
        if self.model is not None or self.is_corrected:
            parts["correction"] = asdict(self.correction)
        if self.model is not None:
            parts["model"] = self.model.costs
        if self.counts:
            parts["counts"] = dict(sorted(self.counts.items()))
        write_sealed_json(path, {**parts, "blocks": self.entries})


def _parts(path: Path, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parts of a table; one as published is all blocks."""
    if "blocks" in content:
        return content
    if "provenance" in content:
        raise TableError(f"latency table {path} has no blocks; {REMEDY}")
    return {"blocks": content}


def _check_costs(path: Path, part: str, costs: object) -> None:
    if not isinstance(costs, dict):
        raise TableError(f"latency table {path}: {part} must be an object; {REMEDY}")
    if unknown := costs.keys() - KINDS:
        told = f"{min(unknown)[:80]} is no kind of work; allowed: {nearest(min(unknown), KINDS)}"
        raise TableError(f"latency table {path}: {part}: {told}; {REMEDY}")
    _check_numbers(path, part, costs, 0.0)


def _check_numbers(path: Path, part: str, numbers: Mapping[str, object], least: float) -> None:
    for key, value in numbers.items():
        lowest = LEAST_MS if (part, key) == ("correction", "scale") else least  # nothing takes no time
        if isinstance(value, bool) or not (isinstance(value, int | float) and lowest <= value <= MOST_MS):
            place = key if part == "blocks" else f"{part}: {key}"
            allowed = "it must be a positive number of ms" if part == "blocks" else f"allowed: {lowest:g}…{MOST_MS:g}"
            raise TableError(f"latency table {path}: {place[:80]} is {repr(value)[:80]}; {allowed}; {REMEDY}")
