"""Texts of subnets and sub-stages, both ways (published format)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spaceevo.errors import EncodingError
from spaceevo.space.spec import BlockChoice

_FIELDS = (("d", "depths"), ("k", "kernels"), ("w", "widths"), ("e", "expand ratios"), ("r", "resolution"))
MOST_CHARACTERS = 4_000  # Of a text; those of the largest published subnets have 220
_SUBNET_FORM = "d<depths>_k<kernels>_w<widths>_e<expand ratios>_r<resolution>, values joined by '#'"


@dataclass(frozen=True, slots=True)
class SubnetSpec:
    """Describes a subnet: the blocks of every stage before the head, in order, and the input resolution in pixels.

    A value like any other: it compares, hashes, and `SubnetSpec.parse(str(spec)) == spec`.
    """

    stages: tuple[tuple[BlockChoice, ...], ...]
    resolution: int

    @classmethod
    def parse(cls, text: str, also: str = "") -> SubnetSpec:
        """Read `d1#2_k3#3#5_w16#24#24_e0#3.0#6.0_r160`; an EncodingError says what is wrong at which position.

        `also` names the words that are allowed besides, where the caller knows some.
        """
        _check_length(text, "subnet")
        parts = text.strip().split("_")
        if len(parts) != len(_FIELDS) or any(not p.startswith(f) for p, (f, _) in zip(parts, _FIELDS, strict=False)):
            others = f"; allowed too: {also}" if also else ""
            raise EncodingError(f"subnet '{text}' is not of the form {_SUBNET_FORM}{others}")
        depths, kernels, widths = (_numbers(text, parts[i], _FIELDS[i][1]) for i in range(3))
        ratio = r"0|(?=.*[1-9])[0-9]+(\.[0-9]+)?"
        ratios = _items(text, parts[3], "expand ratios", ratio, "a positive number, or 0 for none")
        expands = [None if item == "0" else float(item) for item in ratios]
        resolutions = _numbers(text, parts[4], "resolution")
        if len(resolutions) != 1:
            raise EncodingError(f"subnet '{text}': resolution must be one number, not '{parts[4][1:]}'")
        for name, values in (("kernels", kernels), ("widths", widths), ("expand ratios", expands)):
            if len(values) != sum(depths):
                raise EncodingError(f"subnet '{text}': {len(values)} {name} for {sum(depths)} blocks (sum of depths)")
        blocks = iter([BlockChoice(*block) for block in zip(kernels, widths, expands, strict=True)])
        return cls(tuple(tuple(next(blocks) for _ in range(d)) for d in depths), resolutions[0])

    def __str__(self) -> str:
        """The published text."""
        blocks = [block for stage in self.stages for block in stage]
        fields = (
            [len(stage) for stage in self.stages],
            [b.kernel for b in blocks],
            [b.width for b in blocks],
            ["0" if b.expand is None else float(b.expand) for b in blocks],
            [self.resolution],
        )
        texts = ("#".join(map(str, values)) for values in fields)
        return "_".join(letter + text for (letter, _), text in zip(_FIELDS, texts, strict=True))


def _check_length(text: str, what: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise EncodingError(f"{what} '{text[:40]}…' has {len(text)} characters; allowed: {MOST_CHARACTERS}")


def _items(text: str, part: str, name: str, pattern: str, wanted: str) -> list[str]:
    """The values of one field; each must match `pattern` whole."""
    items = part[1:].split("#")
    for position, item in enumerate(items, start=1):
        if re.fullmatch(pattern, item) is None:
            raise EncodingError(f"subnet '{text}': {name}, position {position}: '{item}' is not {wanted}")
    return items


def _numbers(text: str, part: str, name: str) -> list[int]:
    return [int(item) for item in _items(text, part, name, "[1-9][0-9]*", "a positive whole number")]


def format_substage(blocks: Iterable[BlockChoice]) -> str:
    """Write the blocks of one stage as a look-up table does: `3#32#None_5#24#1.5`."""
    return "_".join(f"{b.kernel}#{b.width}#{b.expand}" for b in blocks)


def parse_substage(text: str) -> tuple[BlockChoice, ...]:
    """Read what `format_substage` writes."""
    _check_length(text, "sub-stage")
    blocks = []
    for position, item in enumerate(text.split("_"), start=1):
        match = re.fullmatch(r"([1-9][0-9]*)#([1-9][0-9]*)#(None|(?=.*[1-9])[0-9]+(?:\.[0-9]+)?)", item)
        if match is None:
            raise EncodingError(
                f"sub-stage '{text}', block {position}: '{item}' is not kernel#width#expand, e.g. 3#32#1.5"
            )
        kernel, width, expand = match.groups()
        ratio = None if expand == "None" else float(expand) if "." in expand else int(expand)
        blocks.append(BlockChoice(int(kernel), int(width), ratio))
    return tuple(blocks)


def format_indices(indices: Sequence[int]) -> str:
    """Write one index a stage: a digit each, or joined by dots where one exceeds 9 (a dot after it, if it is alone)."""
    if max(indices) <= 9:
        return "".join(map(str, indices))
    return ".".join(map(str, indices)) + ("." if len(indices) == 1 else "")


def parse_indices(text: str, what: str) -> tuple[int, ...]:
    """Read what `format_indices` writes."""
    alone = text.removesuffix(".")
    items = [alone] if "." not in alone and alone != text else text.split(".") if "." in text else list(text)
    if not all(re.fullmatch("0|[1-9][0-9]*", item) for item in items):
        raise EncodingError(f"{what} '{text}' must be one digit a stage, or numbers joined by '.'")
    return tuple(map(int, items))
