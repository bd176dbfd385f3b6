"""Platforms whose runtime is at hand: blocks are measured when first asked for and kept in a table of the machine."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spaceevo.artifacts import fingerprint
from spaceevo.errors import TableError
from spaceevo.latency.blocks import PlacedBlock, random_block_program, subnet_blocks
from spaceevo.latency.measure import Model, Timing
from spaceevo.latency.predictor import FixedLatency
from spaceevo.latency.table import LatencyTable
from spaceevo.nn.supernet import Network
from spaceevo.quant.convert import ProgramBuilder
from spaceevo.quant.program import Program, TensorQuant
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember, Superspace
from spaceevo.stages.platforms.base import Platform, log
from spaceevo.terminal import progress

BLOCK_REPEATS = 10
SAVE_EVERY = 128


class MeasuringPlatform(Platform):
    """Measures what its table lacks; where `+stage=profile` left a fitted model, that predicts it instead.

    Args:
        name: name of the platform.
        superspace: name of the superspace; each has a table and model of its own.
        cache: folder of the tables.
        table: JSON file of the table instead of the machine's own in `cache`.
        fixed_latency_ms: latency of first_conv, stage0 and head, instead of measuring them.
        unknown_blocks: `measure` them, take the `fitted` model, or `auto`: the model where it knows such blocks.
    """

    unknown_choices = ("auto", "measure", "fitted")
    suffix: str

    def __init__(
        self,
        name: str,
        superspace: str,
        cache: str,
        table: str | None = None,
        fixed_latency_ms: FixedLatency = None,
        unknown_blocks: str = "auto",
    ) -> None:
        self.provenance = {**self.describe(name), "superspace": superspace}
        machine = hashlib.sha256(str(self.provenance | {"date": ""}).encode()).hexdigest()[:8]
        path = table or str(Path(cache) / f"{name}-{superspace}-{machine}.json")
        super().__init__(name, path, fixed_latency_ms, unknown_blocks)
        self.predictor.interpolate = unknown_blocks != "measure"
        measured_on = self.predictor.table.provenance.get("machine", self.machine)
        self.is_local = measured_on == self.machine and self.measured_for == name
        if measured_on != self.machine:
            log.warning(
                f"latency table {self.path} was measured on {measured_on}, this machine is {self.machine}: latencies "
                f"are the former's; +stage=profile platform.table=null measures this one"
            )
        if (fitted_on := self.predictor.table.provenance.get("superspace", superspace)) != superspace:
            log.warning(f"latency table {self.path} was made for superspace {fitted_on}, not {superspace}")

    @abstractmethod
    def describe(self, name: str) -> dict[str, str]:
        """Provenance of what is measured now."""

    @abstractmethod
    def compile(self, program: Program) -> bytes:
        """A program as the runtime takes it."""

    @abstractmethod
    def compile_float(self, network: Network, shape: tuple[int, int, int]) -> bytes:
        """An fp32 network for images of `shape` `(C, H, W)` as the runtime takes it."""

    @abstractmethod
    def time_models(
        self, models: Mapping[str, Model], repeats: int, on_progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Timing]:
        """Time models side by side."""

    def prepare(self, model: bytes) -> bytes:
        """The model as it is loaded soonest, where it is to be loaded many times."""
        return model

    def compile_block(self, block: PlacedBlock) -> bytes:
        """A block with random weights, as near as can be to how it runs within a network."""
        return self.compile(random_block_program(*block))

    @property
    def machine(self) -> str:
        """Name of the machine that is measured."""
        return self.provenance["machine"]

    @property
    def stamp(self) -> str:
        """Changes where predictions may; not when more blocks are measured."""
        return fingerprint([self.machine, *self._model])

    def known_table(self) -> LatencyTable:
        """The table as it is now; empty before the first measurement."""
        return LatencyTable.load(self.path) if self.path.exists() else LatencyTable(provenance=self.provenance)

    def ensure(self, blocks: Iterable[PlacedBlock]) -> None:
        """Measure the blocks that are unknown; saves as it goes.

        Raises:
            TableError: the table is another machine's, so that what it lacks cannot be measured here.
        """
        placed = list(blocks)
        missing = self.predictor.missing(placed)
        if not missing:
            return
        if not self.is_local or self.unknown_blocks == "fitted":
            raise self.predictor.unknown(placed)
        keys = list(missing)
        with progress() as bar:
            task = bar.add_task(f"measuring {len(keys)} blocks on {self.machine}", total=len(keys))
            for start in range(0, len(keys), SAVE_EVERY):
                part = {key: missing[key] for key in keys[start : start + SAVE_EVERY]}
                # what other jobs measured meanwhile stays, and counts: a block has one latency for all of them
                self.predictor.table.entries |= self.alone_ms(part) | self.known_table().entries
                self.predictor.table.save(self.path)
                bar.advance(task, len(part))

    def alone_ms(self, blocks: Mapping[str, PlacedBlock]) -> dict[str, float]:
        """Measured latency in ms of blocks by themselves."""
        found = self.time_models({key: self.compile_block(block) for key, block in blocks.items()}, BLOCK_REPEATS)
        return {key: self.net_ms(blocks[key], timing.latency_ms) for key, timing in found.items()}

    def net_ms(self, block: PlacedBlock, measured_ms: float) -> float:
        """A block's latency less that of running a model, which a network pays for once: with its stem."""
        return measured_ms if block[0].type == "FirstConv" else less(measured_ms, self._running_ms)

    @cached_property
    def _running_ms(self) -> float:
        empty = ProgramBuilder((1, 1, 1), TensorQuant(0.02, 128)).program
        return self.time_models({"empty": self.compile(empty)}, 100)["empty"].latency_ms

    def _fixed_ms(self, superspace: Superspace, resolution: int) -> float:
        if self.predictor.fixed_latency_ms is not None:  # a wish, not a stopgap: here the blocks could be measured
            return self.predictor.fixed_ms(resolution)
        return super()._fixed_ms(superspace, resolution)

    def subnets_ms(self, member: SpaceMember, specs: Sequence[SubnetSpec]) -> NDArray[np.float64]:
        """Predicted latency of subnets in ms, `(N,)`, unknown blocks measured first.

        Raises:
            EncodingError: one is not a subnet of `member`.
            TableError: the table is another machine's and lacks blocks.
        """
        try:
            return super().subnets_ms(member, specs)
        except TableError:  # rare, so that predictions need not look for unknown blocks each time
            self.ensure(block for spec in specs for block in subnet_blocks(member, spec))
        return super().subnets_ms(member, specs)

    def measured_ms(self, models: Mapping[str, Program | Model], repeats: int = 20) -> dict[str, float]:
        """Measured latency in ms of networks: programs, or models in the runtime's own format."""
        ready = {name: self.compile(m) if isinstance(m, Program) else m for name, m in models.items()}
        return {name: timing.latency_ms for name, timing in self.time_models(ready, repeats).items()}


def less(measured_ms: float, besides_ms: float) -> float:
    """The difference, but never less than a tenth: both are measured."""
    return round(max(measured_ms - besides_ms, 0.1 * measured_ms), 6)
