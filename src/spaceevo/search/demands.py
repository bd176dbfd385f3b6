"""What subnets demand besides time: MACs, parameters, kB of their INT8 file and of a microcontroller's memory.

Each is made of shares of blocks, found once for each block. Of memory, buffers of tensors are needed one block after
another, so that the greatest share counts; all other shares add up. Sizes in bytes (`sizes.py`) need torch, which waits
until one is asked for: limits of MACs, tables and helps do without.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spaceevo.latency.fastest import fastest_subnet
from spaceevo.search.limits import Demand
from spaceevo.space.cost import block_macs_and_params, subnet_cost
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import PlacedBlock, subnet_blocks
from spaceevo.space.spec import BlockSpec
from spaceevo.space.superspace import SpaceMember

Figures = NDArray[np.float32] | NDArray[np.float64]


class Share(NamedTuple):
    """Describes one of the figures of blocks that make up a demand."""

    of_block: Callable[[BlockSpec, int], float]  # of a block by the height and width of its input
    adds_up: bool = True  # over the blocks of a network; else the greatest counts

    def of_row(self, blocks: Iterable[PlacedBlock]) -> float:
        """Compute the share of blocks in a row."""
        found = [self.of_block(spec, hw) for spec, hw in blocks]
        return sum(found) if self.adds_up else max(found)

    def join(self, parts: Figures) -> Figures:
        """Join the shares of parts of networks, `(parts, …)` → `(…)`."""
        joined: Figures = parts.sum(axis=0) if self.adds_up else parts.max(axis=0)
        return joined


def _mmacs(spec: BlockSpec, hw: int) -> float:
    return block_macs_and_params(spec, hw)[0] / 1e6


def _mparams(spec: BlockSpec, hw: int) -> float:
    return block_macs_and_params(spec, hw)[1] / 1e6


def _onnx_kb(spec: BlockSpec, hw: int) -> float:
    from spaceevo.search.sizes import onnx_kb

    return onnx_kb(spec, hw)


def _tflite_kb(spec: BlockSpec, hw: int) -> float:
    from spaceevo.search.sizes import tflite_kb

    return tflite_kb(spec, hw)


def _planned_kb(spec: BlockSpec, hw: int) -> float:
    from spaceevo.search.sizes import memory_kb

    return memory_kb(spec, hw)[0]


def _lasting_kb(spec: BlockSpec, hw: int) -> float:
    from spaceevo.search.sizes import memory_kb

    return memory_kb(spec, hw)[1]


SHARES: Mapping[Demand, tuple[Share, ...]] = {
    "mmacs": (Share(_mmacs),),
    "mparams": (Share(_mparams),),
    "file_kb": (Share(_onnx_kb), Share(_tflite_kb)),
    "peak_ram_kb": (Share(_lasting_kb), Share(_planned_kb, adds_up=False)),
}
"""The shares that make up each demand."""


def demand(kind: Demand, shares: Sequence[Figures]) -> Figures:
    """Compute a demand from its shares: the larger of the two files, or all memory together."""
    first, *others = shares
    for other in others:
        first = np.maximum(first, other) if kind == "file_kb" else first + other
    return first


def ends(kind: Demand, channels: int, resolution: int, classes: Sequence[str]) -> tuple[float, ...]:
    """Compute the shares of what a network has besides its blocks: conversion of images and logits, metadata."""
    if kind in ("mmacs", "mparams"):
        return (0.0,)
    from spaceevo.search.sizes import ends_file_kb, ends_memory_kb

    if kind == "peak_ram_kb":
        planned, lasting = ends_memory_kb(channels, resolution)
        return lasting, planned
    return ends_file_kb(channels, resolution, classes)


class SubnetDemands:
    """Tells what subnets of a space demand, of each once, and which demand the least.

    Args:
        member: the space.
        classes: names of the classes, which files keep.
    """

    def __init__(self, member: SpaceMember, classes: Sequence[str]) -> None:
        self.member = member
        self.classes = classes
        self._known: dict[tuple[Demand, SubnetSpec], float] = {}
        self._ends: dict[tuple[Demand, int], tuple[float, ...]] = {}

    def figure(self, kind: Demand, spec: SubnetSpec) -> float:
        """Compute one demand of a subnet; MACs and parameters in millions."""
        if (kind, spec) not in self._known:
            self._known[kind, spec] = self._figure(kind, spec)
        return self._known[kind, spec]

    def _figure(self, kind: Demand, spec: SubnetSpec) -> float:
        if kind in ("mmacs", "mparams"):
            return float(getattr(subnet_cost(self.member, spec), kind))
        blocks = subnet_blocks(self.member, spec)
        outer = self._ends_of(kind, spec.resolution)
        pairs = [np.array([share.of_row(blocks), end]) for share, end in zip(SHARES[kind], outer, strict=True)]
        return float(demand(kind, [share.join(pair) for share, pair in zip(SHARES[kind], pairs, strict=True)]))

    def _ends_of(self, kind: Demand, resolution: int) -> tuple[float, ...]:
        if (kind, resolution) not in self._ends:
            channels = self.member.superspace.input_channels
            self._ends[kind, resolution] = ends(kind, channels, resolution, self.classes)
        return self._ends[kind, resolution]

    def least(self, kind: Demand) -> SubnetSpec:
        """Find the subnet that demands the least of a kind."""
        if kind == "peak_ram_kb":
            return self._least_memory()
        found = [fastest_subnet(self.member, share.of_block) for share in SHARES[kind]]
        return min(found, key=lambda spec: self.figure(kind, spec))

    def _least_memory(self) -> SubnetSpec:
        """Lower the height of the plan of buffers step by step, and find what lasts least below each."""
        found: list[SubnetSpec] = []
        height = float("inf")
        while True:

            def lasting_kb(spec: BlockSpec, hw: int, height: float = height) -> float:
                return _lasting_kb(spec, hw) if _planned_kb(spec, hw) < height else float("inf")

            spec = fastest_subnet(self.member, lasting_kb)
            blocks = subnet_blocks(self.member, spec)
            if sum(lasting_kb(*block) for block in blocks) == float("inf"):
                return min(found, key=lambda each: self.figure("peak_ram_kb", each))
            found.append(spec)
            height = max(_planned_kb(*block) for block in blocks)
