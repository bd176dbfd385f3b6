"""Rows of block look-up tables: what is sampled, its loss, and the file that holds them, finished or not."""

import json
from collections.abc import Iterable, Sequence
from itertools import islice, takewhile
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from spaceevo.artifacts import (
    Plain,
    append_line,
    file_hash,
    fingerprint,
    parse_json,
    read_sealed_json,
    write_sealed_json,
    write_text,
)
from spaceevo.errors import CheckpointError, TableError
from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.evaluate import equal_batches
from spaceevo.nn.losses import VarianceOf, noise_to_signal
from spaceevo.nn.student import BlockStudent
from spaceevo.quant.prepare import quantizers
from spaceevo.search.lut import LutKey, LutRow, lut_record, write_lut_file
from spaceevo.space.encoding import format_substage
from spaceevo.space.operators import sample_substage
from spaceevo.space.placement import PlacedBlock, place
from spaceevo.space.spec import BlockChoice
from spaceevo.space.superspace import StageSpace, Superspace
from spaceevo.stages.features import Features
from spaceevo.stages.job import Input


class Sampled(NamedTuple):
    """Describes a sub-stage with the input it is tried on."""

    blocks: tuple[BlockChoice, ...]
    cin: int  # channels of the input
    hw: int  # height and width of the input in pixels
    resolution: int  # of the images, in pixels

    def is_of(self, row: LutRow) -> bool:
        """Tell whether a row of a table is of this sub-stage."""
        return (row.substage, row.cin, row.hw) == (format_substage(self.blocks), self.cin, self.hw)


def sample_rows(space: StageSpace, input_hws: dict[int, int], count: int, seed: str) -> list[Sampled]:
    """Sample sub-stages of a stage and window; they depend on `seed` alone.

    Args:
        space: the choices of the stage.
        input_hws: height and width of the stage's input, by the resolution of the images.
        count: how many.
        seed: seed of everything random.
    """
    rng = Random(seed)
    found = []
    for _ in range(count):
        blocks = sample_substage(space, rng)
        cin = rng.choice(space.cins)
        resolution = rng.choice(list(input_hws))
        found.append(Sampled(blocks, cin, input_hws[resolution], resolution))
    return found


def placed_rows(superspace: Superspace, key: LutKey, count: int, seed: str) -> list[tuple[Sampled, list[PlacedBlock]]]:
    """Sample sub-stages of a table, each with its blocks where they lie; they depend on `seed` alone."""
    stage = superspace.searched[key.stage].name
    space = superspace.stage_space(stage, key.block, key.window)
    hws = {resolution: superspace.input_hw(stage, resolution) for resolution in superspace.block_resolutions}
    rows = sample_rows(space, hws, count, seed)
    return [(one, place(space.specs(one.blocks, one.cin), one.hw)) for one in rows]


@torch.no_grad()
def substage_loss(
    student: BlockStudent, blocks: Sequence[BlockChoice], cin: int, features: Features, variance_of: VarianceOf
) -> float:
    """Compute the NSR of one sub-stage, batch norm recalibrated first.

    Quantisers that training never reached are set by the sub-stage at hand and forgotten, so that the loss does not
    depend on which sub-stages came before.
    """
    untrained = [quantizer for quantizer in quantizers(student).values() if not quantizer.initialized]
    student.activate(blocks, cin)
    device = next(student.parameters()).device
    recalibrate(student, features.calibration, lambda x: student(x.to(device)))
    total = torch.zeros((), device=device)
    for target in features.evaluation:
        source, output, variance = (tensor.to(device) for tensor in target)
        total += noise_to_signal(student(source), output, variance_of, variance)
    for quantizer in untrained:
        quantizer.forget()
    if total.isnan():
        raise CheckpointError(
            f"the NSR of {format_substage(blocks)} in {student.space.name} is nan; train the block at a lower rate"
        )
    return float(total) / len(features.evaluation)


def first_batches(batches: Iterable[tuple[Tensor, Tensor]], size: int, count: int) -> list[Tensor]:
    """Return the first `count` batches of `size` images `(N, 3, H, W)`; no more images than needed are loaded."""
    return [images for images, _ in islice(equal_batches(batches, size), count)]


class LutFile:
    """Keeps one look-up table on the disk: its rows while it is being made, itself, and what it was made from.

    A finished table has a record beside it, in `.made`; a table in the making has its rows in `.unfinished`, a line
    each below that record, so that a killed run goes on at the next row.

    Args:
        path: the CSV file.
        origin: fingerprint of all that decides the table, the platform's latencies excepted.
        latencies: the platform's latency table; blocks that are added to it leave a table current.
    """

    def __init__(self, path: Path, origin: str, latencies: Input) -> None:
        self.path = path
        self.origin = origin
        self.latencies = latencies
        self.made = lut_record(path)
        self.unfinished = path.parent / ".unfinished" / path.name

    def is_current(self) -> bool:
        """Tell whether the table is there as it was made, and would be made the same now."""
        if not (self.path.is_file() and self.made.is_file()):
            return False
        try:
            record = read_sealed_json(self.made)
        except CheckpointError:
            return False
        return isinstance(record, dict) and self._is_same(record) and record.get("table") == file_hash(self.path)

    def forget(self) -> None:
        """Make the table due, from its first row on."""
        self.made.unlink(missing_ok=True)
        self.unfinished.unlink(missing_ok=True)

    def _is_same(self, record: dict[str, Plain]) -> bool:
        known = record.get("latencies")
        return record.get("origin") == self.origin and known == self.latencies.state(known)

    def _record(self) -> dict[str, Plain]:
        return {"origin": self.origin, "latencies": self.latencies.state(None)}

    def begin(self, sampled: Sequence[Sampled]) -> int:
        """Take up the rows that a killed run left, where they are those of what is sampled; return how many."""
        kept = self._rows(sampled)
        lines = [json.dumps(self._record()), *map(_checked, kept)]
        write_text(self.unfinished, "".join(f"{line}\n" for line in lines))
        return len(kept)

    def _rows(self, sampled: Sequence[Sampled]) -> list[LutRow]:
        """The rows of a table in the making, if it is this one, up to the first that is torn, damaged or of another."""
        text = self.unfinished.read_text(encoding="utf-8", errors="replace") if self.unfinished.is_file() else ""
        record, *lines = text.split("\n")
        pairs = zip(lines[:-1], sampled, strict=False) if self._is_same(_parsed(record)) else ()
        texts = takewhile(lambda pair: pair[0] == _checked(pair[0].rpartition(" ")[0]), pairs)
        rows = ((LutRow.parse(text.rpartition(" ")[0]), one) for text, one in texts)
        return [row for row, _ in takewhile(lambda pair: pair[1].is_of(pair[0]), rows)]

    def append(self, row: LutRow) -> None:
        """Keep a row, rounded as the table has it."""
        append_line(self.unfinished, _checked(LutRow.parse(str(row))))

    def finish(self, sampled: Sequence[Sampled]) -> None:
        """Write the table and what it was made from.

        Raises:
            TableError: its rows are not those of what is sampled; something else wrote into them.
        """
        rows = self._rows(sampled)
        if len(rows) != len(sampled):
            raise TableError(
                f"{self.unfinished}: row {len(rows) + 1} was changed by another program; start this one again"
            )
        write_lut_file(self.path, rows)
        write_sealed_json(self.made, {**self._record(), "table": file_hash(self.path)})
        self.unfinished.unlink()


def _checked(row: LutRow | str) -> str:
    """The line of a row in the making: it, and a checksum."""
    return f"{row} {fingerprint(str(row))}"


def _parsed(text: str) -> dict[str, Plain]:
    """Read a record; nothing where it is none, as earlier versions left."""
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
