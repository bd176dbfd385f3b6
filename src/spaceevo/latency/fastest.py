"""Finds the fastest subnet of a space where latency is a sum of blocks: a shortest path through the widths."""

import itertools
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.spec import BlockChoice, BlockSpec
from spaceevo.space.superspace import SpaceMember, StageSpace
from spaceevo.space.walk import output_hw

BlockMs = Callable[[BlockSpec, int], float]
"""Latency in ms of a block by its specification and the height and width of its input."""


class _Path(NamedTuple):
    """Holds the fastest way found to some width: its latency, and the blocks of each stage."""

    ms: float
    stages: tuple[tuple[BlockChoice, ...], ...]


def fastest_subnet(member: SpaceMember, block_ms: BlockMs) -> SubnetSpec:
    """Find the subnet whose blocks have the least sum of latencies, of all resolutions."""
    known_ms = cache(block_ms)
    found = {hw: _fastest(member, hw, known_ms) for hw in member.superspace.supernet_resolutions}
    resolution = min(found, key=lambda hw: found[hw].ms)
    is_encoded = [not stage.is_head for stage in member.stages.values()]
    return SubnetSpec(tuple(itertools.compress(found[resolution].stages, is_encoded)), resolution)


def _fastest(member: SpaceMember, hw: int, block_ms: BlockMs) -> _Path:
    """Find the fastest path through all stages at one resolution; a block's latency depends on the width before it."""
    paths = {member.superspace.input_channels: _Path(0.0, ())}
    for stage in member.stages.values():
        first = stage.candidate.spec(stage.largest[0], next(iter(paths)), stage.stride)
        inner_hw = output_hw(first, hw)
        paths = _through(stage, paths, (hw, inner_hw), block_ms)
        hw = inner_hw
    return min(paths.values(), key=lambda path: path.ms)


def _through(
    stage: StageSpace, paths: Mapping[int, _Path], sizes: tuple[int, int], block_ms: BlockMs
) -> dict[int, _Path]:
    """Extend the fastest path to every input width to the fastest to every output width.

    `sizes` are height and width of the input of the stage's first block, and of the others'.
    """
    ends: dict[int, _Path] = {}
    for options in _options(stage):
        reached = {width: _Path(path.ms, (*path.stages, ())) for width, path in paths.items()}
        for position in range(max(stage.depths)):
            stride, hw = (stage.stride, sizes[0]) if position == 0 else (1, sizes[1])
            longer: dict[int, _Path] = {}
            for (cin, path), choice in itertools.product(reached.items(), options):
                ms = path.ms + block_ms(stage.candidate.spec(choice, cin, stride), hw)
                _keep(longer, choice.width, _Path(ms, (*path.stages[:-1], (*path.stages[-1], choice))))
            reached = longer
            if position + 1 in stage.depths:
                for width, path in reached.items():
                    _keep(ends, width, path)
    return ends


def _options(stage: StageSpace) -> list[list[BlockChoice]]:
    """List the sets of choices from which all blocks of a sub-stage take theirs."""
    if stage.is_head:
        return [[stage.largest[0]]]
    block = stage.candidate
    options = [BlockChoice(*sizes) for sizes in itertools.product(block.kernels, stage.widths, block.expands)]
    return [[option] for option in options] if stage.aligned else [options]


def _keep(paths: dict[int, _Path], width: int, path: _Path) -> None:
    if width not in paths or path.ms < paths[width].ms:
        paths[width] = path
