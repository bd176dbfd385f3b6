"""Block look-up tables: loss and latency of sampled sub-stages, one CSV per stage, block type and width window.

A file `<stage>_<block>_<window>.csv` has no header and a line per sub-stage: its text, its input shape `1xCxHxW`, the
block-distillation loss (NSR), MFLOPs (multiply-accumulates / 1e6), MParams and the latency in ms.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import product, starmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from spaceevo.artifacts import atomic_path, cache_folder, file_hash, fingerprint, read_sealed_json, write_text
from spaceevo.errors import CheckpointError, EncodingError, MissingArtifactError, TableError, choices
from spaceevo.space.encoding import parse_substage
from spaceevo.space.superspace import Superspace

FloatArray = npt.NDArray[np.float32]
MOST = 1e9  # Of a figure; arrays of 32 bits hold 1e38
NO_LATENCY = "nan"  # Stands for the latency of a row where no platform was asked
BLOCK_LUT = "python -m spaceevo +stage=block_lut"
COLUMNS = ("sub-stage", "input shape", "loss", "MFLOPs", "MParams", "latency ms")


@dataclass(frozen=True, slots=True)
class LutRow:
    """Holds one measured sub-stage."""

    substage: str
    cin: int  # channels of its input
    hw: int  # height and width of its input, in pixels
    loss: float
    mflops: float  # millions of multiply-accumulates
    mparams: float
    latency_ms: float  # nan where no platform was asked

    @classmethod
    def parse(cls, line: str) -> LutRow:
        """Read a line of a look-up table; a `TableError` names a wrong column, its value and what is allowed."""
        fields = line.split(",")
        if len(fields) != len(COLUMNS):
            raise TableError(f"{len(fields)} columns instead of {len(COLUMNS)} ({', '.join(COLUMNS)}) in '{line}'")
        try:
            for block in fields[0].split("_"):
                _check_block(block)
        except EncodingError as error:
            raise TableError(str(error)) from None
        cin, hw = _parse_shape(fields[1])
        loss, mflops, mparams = map(_parse_figure, COLUMNS[2:5], fields[2:5])
        latency_ms = math.nan if fields[5] == NO_LATENCY else _parse_figure(COLUMNS[5], fields[5])
        if loss == 0.0:
            raise TableError(f"loss '{fields[2]}' must be greater than 0")
        return cls(fields[0], cin, hw, loss, mflops, mparams, latency_ms)

    def __str__(self) -> str:
        """Write the line, as `parse` reads it."""
        figures = map(_format_figure, (self.loss, self.mflops, self.mparams, self.latency_ms))
        return ",".join((self.substage, f"1x{self.cin}x{self.hw}x{self.hw}", *figures))


class LutSamples(NamedTuple):
    """Holds losses (NSR) and latencies (ms) of all sub-stages of one stage, block type, window and resolution."""

    loss: FloatArray
    latency_ms: FloatArray


class LutKey(NamedTuple):
    """Names a choice of a stage: its position among the searched ones, its block type and its window."""

    stage: int
    block: int
    window: int


def lut_keys(superspace: Superspace) -> Iterator[LutKey]:
    """List every stage × block type × window of a superspace, in order."""
    for stage, template in enumerate(superspace.searched):
        yield from starmap(LutKey, product([stage], range(len(superspace.candidates)), range(template.windows)))


def lut_file_name(superspace: Superspace, key: LutKey) -> str:
    """Name the file that holds `key`, e.g. `stage1_0_0.csv`."""
    return f"{superspace.searched[key.stage].name}_{key.block}_{key.window}.csv"


def write_lut_file(path: Path, rows: Iterable[LutRow]) -> None:
    """Write one look-up table atomically.

    Figures have four decimals; those below 1 that need more, as the 0.00x ms of small networks, have six digits.
    """
    write_text(path, "".join(f"{row}\n" for row in rows))


def read_lut_file(path: Path) -> list[LutRow]:
    """Read one look-up table; a `TableError` names the file, the line, the column and its value."""
    if not path.is_file():
        raise TableError(f"{path} is no file; make it again with: {BLOCK_LUT}")
    lines = path.read_text(encoding="utf-8-sig", errors="replace").rstrip().splitlines()
    if not lines:
        raise TableError(f"{path} is empty; delete it and make it again")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(LutRow.parse(line))
        except TableError as error:
            raise TableError(f"{path}, line {number}: {error}") from None
    return rows


@dataclass(frozen=True)
class BlockLut:
    """Holds the look-up tables of a whole superspace, as arrays per stage, block type, window and resolution."""

    superspace: Superspace
    samples: Mapping[LutKey, tuple[LutSamples, ...]]  # sub-stages of a choice, an entry per block resolution
    command: str = BLOCK_LUT  # what makes the tables

    @classmethod
    def load(
        cls, folder: Path | str, superspace: Superspace, cache_dir: Path | None = None, command: str = ""
    ) -> BlockLut:
        """Read every look-up table of a superspace.

        The arrays are kept for the next time in `cache_dir`; by default in `folder/.cache`, or in the user's cache
        folder (`SPACEEVO_CACHE`) where `folder` is read-only. A stale or broken cache is made again. Messages name the
        `command` that makes tables, by default the shortest.

        Raises:
            MissingArtifactError: `folder` does not exist.
            TableError: files are missing, a row is malformed or has an unknown resolution, or a resolution has no row.
        """
        folder, command = Path(folder), command or f"{BLOCK_LUT} superspace={superspace.name}"
        paths = _existing_files(folder, superspace, command)
        cache = (cache_dir or _default_dir(folder)) / f"{superspace.name}-{fingerprint(str(folder.resolve()))}.npz"
        contents = [(path.name, _checked_hash(path, command)) for path in paths.values()]
        sizes = [_input_sizes(superspace, stage.name) for stage in superspace.searched]
        key = fingerprint([contents, superspace.block_resolutions, sizes])
        splits = _read_cache(cache, key)
        if splits is None:
            splits = [split for choice, path in paths.items() for split in _read_splits(path, superspace, choice)]
            _write_cache(cache, key, splits)
        resolutions = len(superspace.block_resolutions)
        groups = [tuple(splits[start : start + resolutions]) for start in range(0, len(splits), resolutions)]
        return cls(superspace, dict(zip(paths, groups, strict=True)), command)

    def with_latencies(self) -> BlockLut:
        """Return the tables; a `TableError` where they were made without latencies."""
        if any(np.isnan(part.latency_ms).any() for parts in self.samples.values() for part in parts):
            raise TableError(
                f"look-up tables of {self.superspace.name} have no latencies (platform=none); limit something else "
                f"than latency, or make them again for a platform: {self.command} platform=…"
            )
        return self

    def without_latencies(self) -> BlockLut:
        """Return the same tables as if nothing took time."""
        parts = {key: tuple(LutSamples(p.loss, np.zeros_like(p.loss)) for p in of) for key, of in self.samples.items()}
        return BlockLut(self.superspace, parts, self.command)


def lut_record(path: Path) -> Path:
    """Return the file that says what a look-up table was made from, and its hash."""
    return path.parent / ".made" / path.name


def _checked_hash(path: Path, command: str) -> str:
    """Hash a table; a `TableError` where it is not as block_lut made it."""
    record, found = lut_record(path), file_hash(path)
    try:
        made = read_sealed_json(record) if record.is_file() else {}
    except CheckpointError:  # as good as none that says this table's hash
        made = None
    if not isinstance(made, dict) or made.get("table", found) != found:
        raise TableError(
            f"{path} is damaged, or was edited: it is not as it was made; make it again with: {command}, "
            f"or delete {record} to use it as it is"
        )
    return found


def _existing_files(folder: Path, superspace: Superspace, command: str) -> dict[LutKey, Path]:
    if not folder.is_dir():
        raise MissingArtifactError(f"block look-up table of {superspace.name}", folder, command)
    paths = {key: folder / lut_file_name(superspace, key) for key in lut_keys(superspace)}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise TableError(
            f"{folder} lacks {len(missing)} of {len(paths)} tables: {choices(missing)}; make them with: {command}"
        )
    return paths


def _input_sizes(superspace: Superspace, stage: str) -> list[int]:
    """Height of a stage's input at each resolution; a deep stage of a small network may see one size at two."""
    return [superspace.input_hw(stage, resolution) for resolution in superspace.block_resolutions]


def _read_splits(path: Path, superspace: Superspace, key: LutKey) -> Iterator[LutSamples]:
    """The rows of a file, split by resolution."""
    rows = read_lut_file(path)
    sizes = _input_sizes(superspace, superspace.searched[key.stage].name)
    for number, row in enumerate(rows, start=1):
        if row.hw not in sizes:
            shape = f"1x{row.cin}x{row.hw}x{row.hw}"
            allowed = choices(sorted(set(sizes)))
            raise TableError(f"{path}, line {number}: input shape '{shape}' has height {row.hw}; allowed: {allowed}")
    for size, resolution in zip(sizes, superspace.block_resolutions, strict=True):
        figures = [(row.loss, row.latency_ms) for row in rows if row.hw == size]
        if not figures:
            raise TableError(f"{path} has no row of resolution {resolution} (input height {size}); sample more rows")
        loss, latency = np.array(figures, dtype=np.float32).T
        yield LutSamples(np.ascontiguousarray(loss), np.ascontiguousarray(latency))


def _read_cache(path: Path, key: str) -> list[LutSamples] | None:
    """Loss and latency of every split, or None where the cache is not whole, or of other tables."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if str(archive["key"]) != key:
                return None
            ends = np.cumsum(archive["counts"])[:-1]
            loss, latency = (np.split(row, ends) for row in archive["values"])
            return list(map(LutSamples, loss, latency))
    except Exception:  # readers of a damaged file raise what they like; its checksums let no other number pass
        return None


def _write_cache(path: Path, key: str, splits: Sequence[LutSamples]) -> None:
    """Keep `splits`, if the disk can be written."""
    counts = np.array([len(loss) for loss, _ in splits])
    values = np.stack([np.concatenate(column) for column in zip(*splits, strict=True)])
    with suppress(OSError), atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(key), counts=counts, values=values)


def _default_dir(folder: Path) -> Path:
    # A folder marked read-only is meant to stay as it is, even where root could write to it.
    if folder.stat().st_mode & stat.S_IWUSR and os.access(folder, os.W_OK):
        return folder / ".cache"
    return cache_folder("lut")


_check_block = lru_cache(maxsize=4096)(parse_substage)  # tables repeat few blocks: this halves the reading time


@lru_cache(maxsize=4096)
def _parse_shape(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"1x(\d+)x(\d+)x(\d+)", text)
    if match is None or match[2] != match[3]:
        raise TableError(f"input shape '{text}' must be 1xCxHxW with equal H and W, e.g. 1x32x80x80")
    return int(match[1]), int(match[2])


def _parse_figure(column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= MOST:
        raise TableError(f"{column} '{text[:80]}' must be a number, 0 or greater, and at most {MOST:g}")
    return value


def _format_figure(value: float) -> str:
    if math.isnan(value):
        return NO_LATENCY
    text = f"{value:.4f}"
    return text if value >= 1.0 or float(text) == value else f"{value:.6g}"
