"""Reads back what W&B wrote offline: files of records in blocks of 32 KiB, as LevelDB's logs are."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

BLOCK, HEADER, FIRST = 32_768, 7, 7  # bytes of a block, of a record's header, of the file's own header


Version = tuple[str, str, str]  # of an artefact: type, name, digest


@dataclass
class OfflineRun:
    """What one offline run holds."""

    name: str = ""
    group: str = ""
    job_type: str = ""
    history: dict[str, list[Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    read: set[Version] = field(default_factory=set)  # artefacts that the run used
    made: set[Version] = field(default_factory=set)  # those that it logged, tables apart
    exit_code: int | None = None  # of a run that was finished


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Read all runs below a folder, oldest first."""
    files = sorted(folder.rglob("run-*.wandb"), key=lambda path: path.stat().st_mtime)
    return [_read(file) for file in files]


def _read(file: Path) -> OfflineRun:
    make_record = resolve_name("wandb.proto.wandb_internal_pb2:Record")  # an extra, imported where it is needed
    found = OfflineRun()
    for content in _records(file.read_bytes()):
        record = make_record()
        record.ParseFromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.name, found.group = record.run.display_name, record.run.run_group
            found.job_type = record.run.job_type
            found.config |= _items(record.run.config.update)
        elif kind == "config":
            found.config |= _items(record.config.update)
        elif kind == "summary":
            found.summary |= _items(record.summary.update)
        elif kind == "history":
            for key, value in _items(record.history.item).items():
                found.history.setdefault(key, []).append(value)
        elif kind == "artifact" and record.artifact.type != "run_table":
            it = record.artifact
            (found.read if it.use_after_commit else found.made).add((it.type, it.name, it.digest))
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes) -> list[bytes]:
    """Join the pieces of every record; a piece never crosses a block's end."""
    found, parts, at = [], b"", FIRST
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last piece
            found.append(parts)
            parts = b""
    return found
