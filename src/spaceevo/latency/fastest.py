"""Finds the fastest subnet of a space where latency is a sum of blocks: a shortest path through the widths."""

from __future__ import annotations

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
    """The fastest way found to some width; of several, the fastest counts."""

    ms: float
    stages: tuple[tuple[BlockChoice, ...], ...]


def fastest_subnet(member: SpaceMember, block_ms: BlockMs) -> SubnetSpec:
    """Find the subnet whose blocks have the least sum of latencies, of all resolutions."""
    known_ms = cache(block_ms)
    found = [(_fastest(member, hw, known_ms), hw) for hw in member.superspace.supernet_resolutions]
    path, resolution = min(found, key=lambda pair: pair[0].ms)
    is_encoded = [not stage.is_head for stage in member.stages.values()]
    return SubnetSpec(tuple(itertools.compress(path.stages, is_encoded)), resolution)


def _fastest(member: SpaceMember, hw: int, block_ms: BlockMs) -> _Path:
    """The fastest path through all stages at one resolution; what a block costs depends on the width before it."""
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

    Args:
        stage: the stage.
        paths: by width, up to the stage.
        sizes: height and width of its first block's input, and of the others'.
        block_ms: latency of a block.
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
    """Sets of choices from which all blocks of a sub-stage take theirs."""
    if stage.is_head:
        return [[stage.largest[0]]]
    block = stage.candidate
    options = [BlockChoice(*sizes) for sizes in itertools.product(block.kernels, stage.widths, block.expands)]
    return [[option] for option in options] if stage.aligned else [options]


def _keep(paths: dict[int, _Path], width: int, path: _Path) -> None:
    if width not in paths or path.ms < paths[width].ms:
        paths[width] = path
