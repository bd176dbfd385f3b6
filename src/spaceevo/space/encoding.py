"""Texts of subnets and sub-stages, both ways (published format)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from spaceevo.errors import EncodingError
from spaceevo.space.spec import BlockChoice

Number = TypeVar("Number", int, float)
_FIELDS = (("d", "depths"), ("k", "kernels"), ("w", "widths"), ("e", "expand ratios"), ("r", "resolution"))
_SUBNET_FORM = "d<depths>_k<kernels>_w<widths>_e<expand ratios>_r<resolution>, values joined by '#'"


@dataclass(frozen=True, slots=True)
class SubnetSpec:
    """A subnet: the blocks of every stage before the head, in order, and the input resolution in pixels.

    A value like any other: it compares, hashes, and `SubnetSpec.parse(str(spec)) == spec`.
    """

    stages: tuple[tuple[BlockChoice, ...], ...]
    resolution: int

    @classmethod
    def parse(cls, text: str) -> SubnetSpec:
        """Read `d1#2_k3#3#5_w16#24#24_e0#3.0#6.0_r160`.

        Raises:
            EncodingError: a field, a value or a count is wrong; says which and at which position.
        """
        parts = text.strip().split("_")
        if len(parts) != len(_FIELDS) or any(not p.startswith(f) for p, (f, _) in zip(parts, _FIELDS, strict=False)):
            raise EncodingError(f"subnet '{text}' is not of the form {_SUBNET_FORM}")
        depths = _numbers(text, parts[0], "depths", int)
        kernels = _numbers(text, parts[1], "kernels", int)
        widths = _numbers(text, parts[2], "widths", int)
        expands: list[float | None] = [e or None for e in _numbers(text, parts[3], "expand ratios", float)]
        resolutions = _numbers(text, parts[4], "resolution", int)
        if len(resolutions) != 1 or resolutions[0] < 1:
            raise EncodingError(f"subnet '{text}': resolution must be one positive number, not '{parts[4][1:]}'")
        if min(depths) < 1:
            raise EncodingError(f"subnet '{text}': depth {depths.index(min(depths)) + 1} must be at least 1")
        for name, values in (("kernels", kernels), ("widths", widths), ("expand ratios", expands)):
            if len(values) != sum(depths):
                raise EncodingError(f"subnet '{text}': {len(values)} {name} for {sum(depths)} blocks (sum of depths)")
        blocks = iter([BlockChoice(*block) for block in zip(kernels, widths, expands, strict=True)])
        return cls(tuple(tuple(next(blocks) for _ in range(d)) for d in depths), resolutions[0])

    def __str__(self) -> str:
        """The published text."""
        blocks = [block for stage in self.stages for block in stage]
        fields: tuple[list[object], ...] = (
            [len(stage) for stage in self.stages],
            [b.kernel for b in blocks],
            [b.width for b in blocks],
            ["0" if b.expand is None else float(b.expand) for b in blocks],
            [self.resolution],
        )
        return "_".join(
            letter + "#".join(map(str, values)) for (letter, _), values in zip(_FIELDS, fields, strict=True)
        )


def _numbers(text: str, part: str, name: str, kind: type[Number]) -> list[Number]:
    values = []
    for position, item in enumerate(part[1:].split("#"), start=1):
        try:
            values.append(kind(item))
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise EncodingError(f"subnet '{text}': {name}, position {position}: '{item}' is not {wanted}") from None
    return values


def format_substage(blocks: Iterable[BlockChoice]) -> str:
    """Write the blocks of one stage as a look-up table does: `3#32#None_5#24#1.5`."""
    return "_".join(f"{b.kernel}#{b.width}#{b.expand}" for b in blocks)


def parse_substage(text: str) -> tuple[BlockChoice, ...]:
    """Read what `format_substage` writes.

    Raises:
        EncodingError: a block is not `kernel#width#expand`; says which.
    """
    blocks = []
    for position, item in enumerate(text.split("_"), start=1):
        match = re.fullmatch(r"(\d+)#(\d+)#(None|\d+(?:\.\d+)?)", item)
        if match is None:
            raise EncodingError(
                f"sub-stage '{text}', block {position}: '{item}' is not kernel#width#expand, e.g. 3#32#1.5"
            )
        kernel, width, expand = match.groups()
        ratio = None if expand == "None" else float(expand) if "." in expand else int(expand)
        blocks.append(BlockChoice(int(kernel), int(width), ratio))
    return tuple(blocks)


def format_indices(indices: Sequence[int]) -> str:
    """Write one index a stage: a digit each, or joined by dots where one exceeds 9."""
    return ("." if max(indices) > 9 else "").join(map(str, indices))


def parse_indices(text: str, what: str) -> tuple[int, ...]:
    """Read what `format_indices` writes.

    Raises:
        EncodingError: the text holds something else than digits and dots.
    """
    items = text.split(".") if "." in text else list(text)
    if not all(item.isdecimal() for item in items):
        raise EncodingError(f"{what} '{text}' must be one digit a stage, or numbers joined by '.'")
    return tuple(map(int, items))
