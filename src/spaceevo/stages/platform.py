"""Platforms: where block latencies come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from rich.progress import Progress

from spaceevo.export.onnx import to_onnx
from spaceevo.latency.blocks import PlacedBlock, random_block_program, subnet_blocks
from spaceevo.latency.measure import machine_name, measure, provenance
from spaceevo.latency.predictor import BlockLatency
from spaceevo.latency.table import LatencyTable
from spaceevo.quant.convert import ProgramBuilder
from spaceevo.quant.program import Program, TensorQuant
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember, Superspace


class OrtCpu:
    """This machine's ONNX Runtime: INT8, one thread; blocks are measured when first asked for and kept in a table.

    A table belongs to a machine, so by default it is shared by all projects of a user on it.

    Args:
        name: name of the platform.
        table: JSON file of the table; without, one per machine in `cache`.
        cache: folder of such tables.
        fixed_latency_ms: latency of the stages that are not searched, instead of measuring them.
        repeats: timings of each block; the least counts.
    """

    save_every = 128

    def __init__(
        self,
        name: str,
        cache: str,
        table: str | None = None,
        fixed_latency_ms: float | None = None,
        repeats: int = 10,
    ) -> None:
        machine = hashlib.sha256(str(provenance(name) | {"date": ""}).encode()).hexdigest()[:8]
        self.path = Path(table) if table else Path(cache).expanduser() / f"{name}-{machine}.json"
        self.name = name
        self.fixed_latency_ms = fixed_latency_ms
        self.repeats = repeats
        known = LatencyTable.load(self.path) if self.path.exists() else LatencyTable(provenance=provenance(name))
        self.predictor = BlockLatency(known, str(self.path))

    def ensure(self, blocks: Iterable[PlacedBlock]) -> None:
        """Measure the blocks that the table lacks; saves as it goes."""
        missing = self.predictor.missing(blocks)
        keys = list(missing)
        if len(keys) < 8:
            self._measure({key: missing[key] for key in keys})
            return
        with Progress(transient=True) as progress:
            task = progress.add_task(f"measuring {len(keys)} blocks on {machine_name()}", total=len(keys))
            for start in range(0, len(keys), self.save_every):
                part = keys[start : start + self.save_every]
                self._measure({key: missing[key] for key in part})
                progress.advance(task, len(part))

    def _measure(self, blocks: dict[str, PlacedBlock]) -> None:
        if not blocks:
            return
        models = {key: to_onnx(random_block_program(*block)).SerializeToString() for key, block in blocks.items()}
        found = measure(models, repeats=self.repeats)
        self.predictor.table.entries |= {key: round(max(ms - self._run_ms, 0.1 * ms), 6) for key, ms in found.items()}
        self.predictor.table.save(self.path)

    @cached_property
    def _run_ms(self) -> float:
        """What running any model costs: a network pays it once, each block measured alone would pay it again."""
        empty = ProgramBuilder((1, 1, 1), TensorQuant(0.02, 128)).program
        return measure({"empty": to_onnx(empty).SerializeToString()}, repeats=10 * self.repeats)["empty"]

    def blocks_ms(self, blocks: list[PlacedBlock]) -> float:
        """Latency of blocks in a row in ms, measured first where unknown."""
        self.ensure(blocks)
        return self.predictor.blocks_ms(blocks)

    def subnet_ms(self, member: SpaceMember, spec: SubnetSpec) -> float:
        """Predicted latency of a subnet in ms: the sum of its blocks."""
        return self.blocks_ms(subnet_blocks(member, spec))

    def measured_ms(self, programs: Mapping[str, Program]) -> dict[str, float]:
        """Measured latency of whole networks in ms."""
        models = {name: to_onnx(program).SerializeToString() for name, program in programs.items()}
        return measure(models, repeats=5 * self.repeats)

    def fixed_ms(self, superspace: Superspace) -> dict[int, float]:
        """Latency in ms of the stages that are not searched, at their smallest, by resolution."""
        resolutions = superspace.block_resolutions
        if self.fixed_latency_ms is not None:
            return dict.fromkeys(resolutions, self.fixed_latency_ms)
        return {resolution: self.blocks_ms(_fixed_blocks(superspace, resolution)) for resolution in resolutions}


def _fixed_blocks(superspace: Superspace, resolution: int) -> list[PlacedBlock]:
    """First convolution, stage0 and head as the smallest subnet has them."""
    placed = []
    for template in superspace.stages:
        if template.is_searched:
            continue
        space, hw = superspace.stage_space(template.name), superspace.input_hw(template.name, resolution)
        for spec in space.specs(space.smallest, min(space.cins)):
            placed.append((spec, 1 if spec.type == "Logits" else hw))
            hw = (hw + spec.stride - 1) // spec.stride
    return placed
