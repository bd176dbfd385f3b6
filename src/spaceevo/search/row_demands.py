"""What the sub-stages of look-up tables demand besides time: shares of MACs, parameters, files and memory by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spaceevo.search.demands import SHARES, demand, ends
from spaceevo.search.limits import Demand
from spaceevo.search.lut import FloatArray, LutKey, LutRow, lut_file_name, lut_keys, read_lut_file
from spaceevo.space.encoding import parse_substage
from spaceevo.space.placement import PlacedBlock, fixed_blocks, place
from spaceevo.space.superspace import Superspace

Shares = tuple[FloatArray, ...]  # For each block resolution, the shares of all rows, `(shares, rows)`


@dataclass(frozen=True)
class RowDemands:
    """Holds shares of demands of every row of the look-up tables, and of what stands outside them."""

    superspace: Superspace
    folder: Path  # of the tables
    rows: Mapping[Demand, Mapping[LutKey, Shares]]
    outside: Mapping[Demand, FloatArray]  # shares of the other stages at their smallest, `(resolutions, shares)`

    @classmethod
    def load(cls, folder: Path | str, superspace: Superspace, kinds: Iterable[Demand]) -> RowDemands:
        """Read the tables, which were checked before, and compute these kinds of each row."""
        wanted, found = tuple(kinds), dict[Demand, dict[LutKey, Shares]]()
        for key in lut_keys(superspace) if wanted else ():
            splits = _split(read_lut_file(Path(folder) / lut_file_name(superspace, key)), superspace, key)
            placed = [[_placed(row, superspace, key) for row in split] for split in splits]
            for kind in wanted:
                found.setdefault(kind, {})[key] = tuple(_shares(kind, split) for split in placed)
        return cls(superspace, Path(folder), found, {kind: _outside(kind, superspace) for kind in wanted})

    def joined(
        self, kind: Demand, key: LutKey, orders: Sequence[np.ndarray[tuple[int], np.dtype[np.intp]]]
    ) -> FloatArray:
        """Join the rows of all resolutions, each in its order; the first stage has what stands outside the tables."""
        parts = [part[:, order] for part, order in zip(self.rows[kind][key], orders, strict=True)]
        if key.stage == 0:
            for part, outer in zip(parts, self.outside[kind], strict=True):
                for number, share in enumerate(SHARES[kind]):
                    part[number] = share.join(np.stack([part[number], np.full_like(part[number], outer[number])]))
        return np.concatenate(parts, axis=1)

    def range(self, kind: Demand, keys: Iterable[LutKey]) -> tuple[float, float]:
        """Tell between which bounds a demand lies whose stage may have any row of its `keys`."""
        chosen, lows, highs = list(keys), list[float](), list[float]()
        for number, outer in enumerate(self.outside[kind]):
            by_stage: dict[int, list[FloatArray]] = {}
            for key in chosen:
                by_stage.setdefault(key.stage, []).append(self.rows[kind][key][number])
            joined = [np.concatenate(parts, axis=1) for parts in by_stage.values()]
            lows.append(_total(kind, [outer, *(part.min(axis=1) for part in joined)]))
            highs.append(_total(kind, [outer, *(part.max(axis=1) for part in joined)]))
        return min(lows), max(highs)

    def least(self, kind: Demand) -> tuple[float, str]:
        """Find rows that together demand little of a kind: their figure, and their texts with the resolution."""
        found = []
        for number, (outer, resolution) in enumerate(
            zip(self.outside[kind], self.superspace.block_resolutions, strict=True)
        ):
            picked: dict[int, tuple[float, LutKey, int]] = {}
            for key, parts in self.rows[kind].items():
                sums = parts[number].sum(axis=0)
                row = int(sums.argmin())
                picked[key.stage] = min(picked.get(key.stage, (np.inf, key, row)), (float(sums[row]), key, row))
            shares = [self.rows[kind][key][number][:, row] for _, key, row in picked.values()]
            texts = [self._text(key, number, row) for _, key, row in picked.values()]
            found.append((_total(kind, [outer, *shares]), f"{', '.join(texts)} at resolution {resolution}"))
        return min(found)

    def _text(self, key: LutKey, resolution: int, row: int) -> str:
        name = lut_file_name(self.superspace, key)
        splits = _split(read_lut_file(self.folder / name), self.superspace, key)
        return f"{splits[resolution][row].substage} of {name}"


def _total(kind: Demand, parts: Sequence[FloatArray]) -> float:
    """A demand from the shares `(shares,)` of parts of one network."""
    stacked = np.stack(parts)
    return float(demand(kind, [share.join(stacked[:, number]) for number, share in enumerate(SHARES[kind])]))


def _split(rows: Sequence[LutRow], superspace: Superspace, key: LutKey) -> list[list[LutRow]]:
    """The rows of a table, by resolution."""
    stage = superspace.searched[key.stage].name
    sizes = [superspace.input_hw(stage, resolution) for resolution in superspace.block_resolutions]
    return [[row for row in rows if row.hw == size] for size in sizes]


def _placed(row: LutRow, superspace: Superspace, key: LutKey) -> list[PlacedBlock]:
    space = superspace.stage_space(superspace.searched[key.stage].name, key.block)
    return place(space.specs(parse_substage(row.substage), row.cin), row.hw)


def _shares(kind: Demand, rows: Sequence[Sequence[PlacedBlock]]) -> FloatArray:
    return np.array([[share.of_row(row) for row in rows] for share in SHARES[kind]], dtype=np.float32)


def _outside(kind: Demand, superspace: Superspace) -> FloatArray:
    """Shares of the stages that are not searched, and of both ends; classes are named by their numbers."""
    classes = [str(number) for number in range(superspace.num_classes)]
    found = []
    for resolution in superspace.block_resolutions:
        blocks = fixed_blocks(superspace, resolution)
        outer = ends(kind, superspace.input_channels, resolution, classes)
        pairs = zip(SHARES[kind], outer, strict=True)
        found.append([float(share.join(np.array([share.of_row(blocks), end]))) for share, end in pairs])
    return np.array(found, dtype=np.float32)
