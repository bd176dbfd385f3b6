"""What stages leave behind: atomic files, fingerprints of their inputs, and one `result.json` per stage."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spaceevo.errors import CheckpointError

SCHEMA = 1
RESULT_FILE = "result.json"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: the file is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); delete it and run its stage again") from error


def fingerprint(value: object) -> str:
    """Hash a tree of plain values; equal trees, whatever their key order, give equal hashes."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Hash a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def cache_folder(name: str) -> Path:
    """Find the folder `name` for what can be made again, below `SPACEEVO_CACHE` or else `~/.cache/spaceevo`."""
    return Path(os.environ.get("SPACEEVO_CACHE") or "~/.cache/spaceevo").expanduser() / name


@dataclass(frozen=True)
class StageResult:
    """What a stage leaves in `result.json`.

    Figures are flat keys with the unit in the name (`latency_ms`, `int8_top1`); `inputs` maps each upstream file to its
    hash; `outputs` maps names to paths.
    """

    stage: str
    fingerprint: str
    seed: int
    figures: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    seconds: float = 0.0
    schema: int = SCHEMA

    def save(self, folder: Path) -> None:
        """Write `result.json` into `folder`, figures at the top level."""
        record = asdict(self)
        figures = record.pop("figures")
        write_json(folder / RESULT_FILE, {**record, "figures": sorted(figures), **figures})

    @classmethod
    def load(cls, folder: Path) -> StageResult | None:
        """Read `result.json` of `folder`; None where there is none or where another version wrote it."""
        path = folder / RESULT_FILE
        if not path.exists():
            return None
        record = read_json(path)
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            return None
        figures = {name: record.pop(name) for name in record.pop("figures")}
        return cls(figures=figures, **record)

    def is_current(self, expected: str) -> bool:
        """Whether this result came from the same settings and inputs and its outputs are still there."""
        return self.fingerprint == expected and all(Path(path).exists() for path in self.outputs.values())


@dataclass(frozen=True)
class Layout:
    """Where the artefacts of one checkpoint folder lie (published layout)."""

    root: Path

    @staticmethod
    def file(int8: bool) -> str:
        """`checkpoint.pth` holds fp32 weights, `lsq.pth` INT8 ones."""
        return "lsq.pth" if int8 else "checkpoint.pth"

    def teacher(self, name: str, int8: bool) -> Path:
        """A teacher's weights."""
        return self.root / "block_kd" / "teacher_checkpoint" / name / self.file(int8)

    def block(self, superspace: str, stage: str, block_index: int, int8: bool) -> Path:
        """The weights of one candidate block of one stage."""
        return self.root / "block_kd" / superspace / f"{stage}_{block_index}" / self.file(int8)

    def space_search(self, superspace: str) -> Path:
        """Folder of the last space search."""
        return self.root / "block_kd" / "search" / superspace

    def supernet(self, member: str, int8: bool) -> Path:
        """A supernet's weights."""
        folder = member if member.endswith("-align1") else f"{member}-align0"
        return self.root / "supernet_training" / folder / self.file(int8)

    def finetuned(self, member: str, subnet: str, data: str, int8: bool) -> Path:
        """The weights of one subnet finetuned on other data."""
        return self.root / "finetune" / data / f"{member}-{fingerprint(subnet)}" / self.file(int8)

    def released_supernet(self, name: str, int8: bool) -> Path:
        """A published supernet's weights, as they were released."""
        return self.root / "supernet_training" / name / self.file(int8)

    def subnet_search(self, member: str) -> Path:
        """Folder of the last subnet search in a space."""
        return self.root / "search_subnet" / member
