"""Superspaces and their members as values: what may be chosen, for every stage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from spaceevo.errors import ConfigError, EncodingError, choices
from spaceevo.space.blocks import block_type
from spaceevo.space.encoding import SubnetSpec, format_indices
from spaceevo.space.spec import Activation, BlockChoice, BlockSpec
from spaceevo.space.walk import output_hw


@dataclass(frozen=True)
class Candidate:
    """Names a block type with the kernels and expand ratios that it may take."""

    type: str
    kernels: tuple[int, ...]
    expands: tuple[float | None, ...]
    act: Activation

    def spec(self, choice: BlockChoice, cin: int, stride: int) -> BlockSpec:
        """Make the block of this candidate that has these choices."""
        return BlockSpec(self.type, cin, choice.width, choice.kernel, choice.expand, stride, self.act)


@dataclass(frozen=True)
class StageTemplate:
    """Describes a stage of a superspace; `block` is its fixed block, or None where the search chooses a candidate."""

    name: str
    stride: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    window: int
    block: Candidate | None = None

    @property
    def is_searched(self) -> bool:
        """Whether block type and width window are chosen by the space search."""
        return self.block is None

    @property
    def windows(self) -> int:
        """Number of width windows."""
        return len(self.widths) - self.window + 1


@dataclass(frozen=True)
class StageSpace:
    """Holds all sub-stages that a stage can be once its block type and widths are settled.

    `cins` are the input widths of the first block (the previous stage's whole list); later blocks take `widths`.
    In an `aligned` stage all blocks share their kernel, width and expand ratio.
    """

    name: str
    candidate: Candidate
    stride: int
    cins: tuple[int, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    aligned: bool = False

    @property
    def is_head(self) -> bool:
        """Whether the stage has one form only and stands outside the subnet encoding."""
        return block_type(self.candidate.type).is_head

    @property
    def largest(self) -> tuple[BlockChoice, ...]:
        """The sub-stage with the greatest depth, kernels, widths and expand ratios."""
        block = self.candidate
        choice = BlockChoice(max(block.kernels), max(self.widths), max(block.expands, key=lambda e: e or 0.0))
        return (choice,) * max(self.depths)

    @property
    def smallest(self) -> tuple[BlockChoice, ...]:
        """The sub-stage with the least depth, kernels, widths and expand ratios."""
        block = self.candidate
        choice = BlockChoice(min(block.kernels), min(self.widths), min(block.expands, key=lambda e: e or 0.0))
        return (choice,) * min(self.depths)

    def block_specs(self, position: int) -> Iterator[BlockSpec]:
        """List every block that may stand at `position`, the first being 0."""
        cins, stride = (self.cins, self.stride) if position == 0 else (self.widths, 1)
        block = self.candidate
        for cin, width, kernel, expand in itertools.product(cins, self.widths, block.kernels, block.expands):
            yield block.spec(BlockChoice(kernel, width, expand), cin, stride)

    def specs(self, blocks: Sequence[BlockChoice], cin: int) -> tuple[BlockSpec, ...]:
        """List the blocks of one sub-stage for an input of `cin` channels."""
        cins = (cin, *(block.width for block in blocks[:-1]))
        strides = (self.stride, *[1] * (len(blocks) - 1))
        return tuple(map(self.candidate.spec, blocks, cins, strides))

    def validate(self, blocks: Sequence[BlockChoice]) -> None:
        """Check a sub-stage; an EncodingError names the stage, the block, the value and what is allowed."""
        if len(blocks) not in self.depths:
            raise EncodingError(f"{self.name}: depth {len(blocks)} is not allowed; allowed: {choices(self.depths)}")
        for position, block in enumerate(blocks, start=1):
            where = f"{self.name}, block {position}"
            for field, value, allowed in (
                ("kernel", block.kernel, self.candidate.kernels),
                ("width", block.width, self.widths),
                ("expand ratio", block.expand, self.candidate.expands),
            ):
                if value not in allowed:
                    raise EncodingError(f"{where}: {field} {value} is not allowed; allowed: {choices(allowed)}")
            if self.aligned and block != blocks[0]:
                rule = "the blocks of a stage share their choices (align1)"
                raise EncodingError(f"{where}: {tuple(block)} differs from block 1, {tuple(blocks[0])}; {rule}")


@dataclass(frozen=True)
class Superspace:
    """Describes a macro architecture, the block types its searched stages choose from, and resolutions in pixels."""

    name: str
    stages: tuple[StageTemplate, ...]
    candidates: tuple[Candidate, ...]
    block_resolutions: tuple[int, ...]
    supernet_resolutions: tuple[int, ...]
    input_channels: int = 3

    @cached_property
    def searched(self) -> tuple[StageTemplate, ...]:
        """The stages whose block type and width window the space search chooses, in order."""
        return tuple(stage for stage in self.stages if stage.is_searched)

    @property
    def num_classes(self) -> int:
        """Width of the classifier."""
        return self.stages[-1].widths[0]

    def with_classes(self, num_classes: int) -> Superspace:
        """Make the same superspace with a classifier of another width."""
        *body, classifier = self.stages
        return replace(self, stages=(*body, replace(classifier, widths=(num_classes,))))

    @property
    def size(self) -> int:
        """Number of members."""
        return math.prod(len(self.candidates) * stage.windows for stage in self.searched)

    def stage(self, name: str) -> StageTemplate:
        """Look a stage up."""
        named = {stage.name: stage for stage in self.stages}
        if name not in named:
            raise ConfigError(f"superspace {self.name} has no stage '{name}'; stages: {choices(named)}")
        return named[name]

    def cins(self, name: str) -> tuple[int, ...]:
        """List the input widths of a stage: the previous stage's whole list."""
        index = self.stages.index(self.stage(name))
        return self.stages[index - 1].widths if index else (self.input_channels,)

    def input_hw(self, name: str, resolution: int) -> int:
        """Compute height and width of a stage's input for images of `resolution` pixels; 1 behind global pooling."""
        hw = resolution
        for stage in self.stages[: self.stages.index(self.stage(name))]:
            space = self.stage_space(stage.name, 0)
            for spec in space.specs(space.smallest, space.cins[0]):
                hw = output_hw(spec, hw)
        return hw

    def stage_space(self, name: str, block_index: int | None = None, window_index: int | None = None) -> StageSpace:
        """Settle a stage: block type `block_index` for a searched stage, widths of one window or, without, all."""
        stage = self.stage(name)
        block = stage.block
        widths = stage.widths
        if block is None:
            if block_index is None or not 0 <= block_index < len(self.candidates):
                types = choices(f"{i} {c.type}" for i, c in enumerate(self.candidates))
                raise ConfigError(f"superspace {self.name}, {name}: block index {block_index} is not one of: {types}")
            block = self.candidates[block_index]
        if window_index is not None:
            if not 0 <= window_index < stage.windows:
                allowed = f"0…{stage.windows - 1}"
                raise ConfigError(
                    f"superspace {self.name}, {name}: window index {window_index} is not one of {allowed}"
                )
            widths = widths[window_index : window_index + stage.window]
        return StageSpace(name, block, stage.stride, self.cins(name), widths, stage.depths)

    def member(self, blocks: Sequence[int], windows: Sequence[int], align: bool = False) -> SpaceMember:
        """Make the space of these block types and width windows; with `align`, a stage's blocks share their choices."""
        for what, indices in (("block", blocks), ("window", windows)):
            if len(indices) != len(self.searched):
                stages = choices(stage.name for stage in self.searched)
                raise ConfigError(f"superspace {self.name}: {len(indices)} {what} indices for the stages {stages}")
        member = SpaceMember(self, tuple(blocks), tuple(windows), align)
        _ = member.stages  # checks the indices
        return member


@dataclass(frozen=True)
class SpaceMember:
    """Describes a space of a superspace: block types, width windows, and whether a stage's blocks share choices."""

    superspace: Superspace
    blocks: tuple[int, ...]
    windows: tuple[int, ...]
    align: bool = False

    def __str__(self) -> str:
        """Write the published encoding, e.g. `mobilew-122222-155400`; aligned spaces end in `-align1`."""
        text = f"{self.superspace.name}-{format_indices(self.blocks)}-{format_indices(self.windows)}"
        return f"{text}-align1" if self.align else text

    @cached_property
    def _hash(self) -> int:
        return hash((self.superspace.name, self.blocks, self.windows, self.align))

    def __hash__(self) -> int:
        """Hash by encoding, once; hashing the whole superspace at each look-up would be slow."""
        return self._hash

    @cached_property
    def stages(self) -> dict[str, StageSpace]:
        """All stages, heads included, by name and in order."""
        picks = iter(zip(self.blocks, self.windows, strict=True))
        spaces = (
            self.superspace.stage_space(stage.name, *(next(picks) if stage.is_searched else ()))
            for stage in self.superspace.stages
        )
        return {space.name: replace(space, aligned=self.align) for space in spaces}

    @cached_property
    def body(self) -> tuple[StageSpace, ...]:
        """The stages of the subnet encoding: all but the heads."""
        return tuple(stage for stage in self.stages.values() if not stage.is_head)

    @property
    def largest(self) -> SubnetSpec:
        """The subnet with every choice at its greatest."""
        return SubnetSpec(tuple(s.largest for s in self.body), max(self.superspace.supernet_resolutions))

    @property
    def smallest(self) -> SubnetSpec:
        """The subnet with every choice at its least."""
        return SubnetSpec(tuple(s.smallest for s in self.body), min(self.superspace.supernet_resolutions))

    def validate(self, spec: SubnetSpec) -> None:
        """Check that `spec` is a subnet; an EncodingError names the stage, block and value, and what is allowed."""
        if len(spec.stages) != len(self.body):
            names = choices(stage.name for stage in self.body)
            raise EncodingError(f"subnet '{spec}': {len(spec.stages)} depths for the stages {names} of {self}")
        allowed = self.superspace.supernet_resolutions
        if spec.resolution not in allowed:
            known = choices(allowed)
            raise EncodingError(f"subnet '{spec}': resolution {spec.resolution} is not allowed; allowed: {known}")
        for stage, blocks in zip(self.body, spec.stages, strict=True):
            try:
                stage.validate(blocks)
            except EncodingError as error:
                raise EncodingError(f"subnet '{spec}' is not in {self}: {error}") from None

    def block_specs(self, spec: SubnetSpec) -> dict[str, tuple[BlockSpec, ...]]:
        """List every block of a subnet by stage, heads included, with all sizes."""
        cin, blocks = self.superspace.input_channels, iter(spec.stages)
        specs: dict[str, tuple[BlockSpec, ...]] = {}
        for stage in self.stages.values():
            specs[stage.name] = stage.specs(stage.largest if stage.is_head else next(blocks), cin)
            cin = specs[stage.name][-1].cout
        return specs
