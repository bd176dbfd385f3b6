"""Latency of subnets and sub-stages: the sum of their blocks, from a table's entries or, if asked for, its model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spaceevo.artifacts.values import Amount, Pixels
from spaceevo.errors import TableError, choices
from spaceevo.latency.roofline import Correction, Roofline
from spaceevo.latency.table import LatencyTable
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import PlacedBlock, block_key, subnet_blocks
from spaceevo.space.spec import BlockChoice, BlockSpec, halved
from spaceevo.space.superspace import SpaceMember

FixedLatency = Amount | Mapping[Pixels, Amount] | None
"""ms that stand for the stages which are not searched: one number, or one for each resolution in pixels."""
_Place = tuple[int, bool, int, BlockChoice, int]
"""A block's place in a space: its stage, whether it is the first there, its input's channels, its choice, input hw."""


class BlockLatency:
    """Predicts subnets and sub-stages by adding up block latencies.

    Args:
        table: the table; entries added to it count from then on.
        source: its file, for messages.
        fixed_latency_ms: stands for the stages that are not searched where the table lacks one of their blocks.
        interpolate: whether the table's model predicts blocks without an entry; else they are an error. Keys of those
            that it predicted so far are in `interpolated`.
    """

    def __init__(
        self, table: LatencyTable, source: str = "", fixed_latency_ms: FixedLatency = None, interpolate: bool = False
    ) -> None:
        self.table = table
        self.source = source
        self.fixed_latency_ms = fixed_latency_ms
        self.interpolate = interpolate
        self.interpolated: set[str] = set()
        self._sums: dict[SpaceMember, _SubnetSums] = {}
        self._entries = len(table.entries)

    @classmethod
    def load(cls, path: str | Path, fixed_latency_ms: FixedLatency = None, interpolate: bool = False) -> BlockLatency:
        """Read a table from a JSON file."""
        return cls(LatencyTable.load(Path(path)), str(path), fixed_latency_ms, interpolate)

    def predict(self, member: SpaceMember, spec: SubnetSpec) -> float:
        """Predict the latency of a subnet in ms; raises as `predict_many`."""
        return float(self.predict_many(member, [spec])[0])

    def predict_many(self, member: SpaceMember, specs: Sequence[SubnetSpec]) -> NDArray[np.float64]:
        """Predict the latency of many subnets in ms, `(N,)`; each block is looked up once.

        Raises:
            EncodingError: one is not a subnet of `member`.
            TableError: blocks are unknown.
        """
        if len(self.table.entries) != self._entries:  # what was interpolated may have been measured since
            self._sums.clear()
            self.interpolated.clear()
            self._entries = len(self.table.entries)
        sums = self._sums.setdefault(member, _SubnetSums(self, member))
        return np.array([sums.subnet_ms(spec) for spec in specs], dtype=np.float64)

    def correct(self, correction: Correction) -> None:
        """Correct blocks within networks otherwise from now on."""
        self.table.correction = correction
        self._sums.clear()

    def block_ms(self, spec: BlockSpec, hw: int) -> float | None:
        """Predict the latency in ms of one block within a network; None where it is unknown."""
        alone = self.table.entries.get(block_key(spec, hw))
        if alone is None:
            model = self._model_of(spec)
            if model is None:
                return None
            alone = model.block_ms(spec, hw)
            self.interpolated.add(block_key(spec, hw))
        return self.table.correction.block_ms(alone, spec, hw)

    def _model_of(self, spec: BlockSpec) -> Roofline | None:
        model = self.table.model if self.interpolate else None
        return model if model is not None and model.knows(spec) else None

    def fixed_ms(self, resolution: int) -> float:
        """Look up what `fixed_latency_ms` says for a resolution; raises `TableError` where it says nothing."""
        fixed = self.fixed_latency_ms
        if not isinstance(fixed, Mapping):
            return float(fixed or 0.0)
        if resolution not in fixed:
            raise TableError(
                f"platform.fixed_latency_ms has no entry for resolution {resolution}; it has {choices(fixed)}; add one"
            )
        return float(fixed[resolution])

    def blocks_ms(self, blocks: Iterable[PlacedBlock]) -> float:
        """Predict the latency in ms of blocks wherever they stand; raises `TableError` where some are unknown."""
        placed = list(blocks)
        found = [self.block_ms(*block) for block in placed]
        known = [latency for latency in found if latency is not None]
        if len(known) < len(found):
            raise self.unknown(placed)
        return sum(known)

    def missing(self, blocks: Iterable[PlacedBlock]) -> dict[str, PlacedBlock]:
        """List the blocks that are unknown, by key: what is left to measure."""
        keys = {block_key(*block): block for block in blocks}
        return {
            key: block for key, block in keys.items() if key not in self.table.entries and not self._model_of(block[0])
        }

    def unknown(self, blocks: Sequence[PlacedBlock], superspace: str = "", only_fixed: bool = False) -> TableError:
        """Make the error for blocks of which some are unknown: names them, the nearest known ones, and what to do.

        `only_fixed` says that all unknown ones belong to stages that are not searched.
        """
        placed = self.missing(blocks)
        missing = list(placed)
        total = len({block_key(*block) for block in blocks})
        near = nearest_keys(missing[0], self.table.entries, limit=1)  # one: the remedies must fit into the line too
        whose, of = (f" of superspace {superspace}", f" superspace={superspace}") if superspace else ("", "")
        remedies = [f"platform=ort_cpu measures them on this machine (python -m spaceevo +stage=profile{of})"]
        model = self.table.model
        if model is not None and not self.interpolate and all(model.knows(spec) for spec, _ in placed.values()):
            remedies.insert(0, "platform.unknown_blocks=fitted predicts them")
        if only_fixed:
            remedies.insert(0, "platform.fixed_latency_ms=… (ms) stands for first_conv, stage0 and head")
        return TableError(
            f"latency table {self.source} lacks {len(missing)} of {total} blocks{whose}: {choices(missing, limit=3)}; "
            f"nearest to the first: {choices(near) or 'no block of that type'}; {'; '.join(remedies)}; "
            "or set platform.table to one with them"
        )


def nearest_keys(key: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Find the known keys of the same block type whose sizes are nearest, by the ratios between them."""
    kind, wanted = _sizes(key)
    same = [other for other in known if other.startswith(f"{kind}_")]

    def distance(other: str) -> float:
        return sum(abs(math.log((a + 0.5) / (b + 0.5))) for a, b in zip(wanted, _sizes(other)[1], strict=False))

    return sorted(same, key=distance)[:limit]


def _sizes(key: str) -> tuple[str, list[float]]:
    kind, *fields = key.split("_")
    return kind, [float(field) if field.replace(".", "", 1).isdigit() else 0.0 for field in fields[:6]]


class _SubnetSums:
    """Sums over subnets of one space; every block and its place in the space are looked up and checked once."""

    def __init__(self, predictor: BlockLatency, member: SpaceMember) -> None:
        self.predictor = predictor
        self.member = member
        searched = [stage.is_searched for stage in member.superspace.stages]
        self.stages = list(zip(member.stages.values(), searched, strict=True))
        self.known: dict[_Place, float] = {}

    def subnet_ms(self, spec: SubnetSpec) -> float:
        try:
            return self.total_ms(spec)
        except KeyError:  # a block, or a place for one, that was not met before
            self.member.validate(spec)
            self.learn(spec)
            return self.total_ms(spec)

    def places(self, spec: SubnetSpec) -> Iterator[tuple[_Place, bool]]:
        """List every block's place in the space, and whether its stage is searched; KeyError for another depth."""
        cin, hw, sub_stages = self.member.superspace.input_channels, spec.resolution, iter(spec.stages)
        for index, (stage, is_searched) in enumerate(self.stages):
            blocks = stage.largest if stage.is_head else next(sub_stages, ())
            if len(blocks) not in stage.depths:
                raise KeyError
            for position, choice in enumerate(blocks):
                yield (index, position == 0, cin, choice, hw), is_searched
                cin = choice.width
                if position == 0:
                    hw = halved(hw, stage.stride)
        if next(sub_stages, None) is not None:
            raise KeyError

    def total_ms(self, spec: SubnetSpec) -> float:
        sums_ms = [0.0, 0.0]
        for place, is_searched in self.places(spec):
            sums_ms[is_searched] += self.known[place]
        fixed_ms, searched_ms = sums_ms
        return searched_ms + (self.predictor.fixed_ms(spec.resolution) if math.isnan(fixed_ms) else fixed_ms)

    def learn(self, spec: SubnetSpec) -> None:
        """Look up every block of a valid subnet; blocks that `fixed_latency_ms` may stand for are NaN."""
        placed = subnet_blocks(self.member, spec)
        unknown: list[bool] = []
        for (place, is_searched), block in zip(self.places(spec), placed, strict=True):
            latency = self.predictor.block_ms(*block)
            if latency is None and not is_searched and self.predictor.fixed_latency_ms is not None:
                latency = math.nan
            if latency is None:
                unknown.append(is_searched)
            else:
                self.known[place] = latency
        if unknown:
            raise self.predictor.unknown(placed, self.member.superspace.name, only_fixed=not any(unknown))
