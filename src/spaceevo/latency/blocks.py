"""Blocks where they stand: with their input's size and their latency key."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from spaceevo.space.blocks import block_type
from spaceevo.space.cost import recipe_of
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.spec import BlockSpec
from spaceevo.space.superspace import SpaceMember

PlacedBlock = tuple[BlockSpec, int]
"""A block and the height and width of its input."""


@lru_cache(maxsize=1 << 18)
def block_key(spec: BlockSpec, hw: int) -> str:
    """Key of a block in latency tables."""
    return block_type(spec.type).key(spec, hw)


@lru_cache(maxsize=1 << 18)
def _output_hw(spec: BlockSpec, hw: int) -> int:
    """Height and width of a block's output, pooling included: the classifier's input is 1×1."""
    recipe = recipe_of(spec)

    def run(name: str, /, *sizes: int) -> int:
        return recipe[name].output_hw(sizes[0]) if name in recipe else sizes[0]

    return block_type(spec.type).forward(run, hw)


def place(specs: Iterable[BlockSpec], hw: int) -> list[PlacedBlock]:
    """Blocks in a row, the first with an input of height and width `hw`."""
    placed = []
    for spec in specs:
        placed.append((spec, hw))
        hw = _output_hw(spec, hw)
    return placed


def subnet_blocks(member: SpaceMember, spec: SubnetSpec) -> list[PlacedBlock]:
    """Every block of a subnet, heads included."""
    return place((block for blocks in member.block_specs(spec).values() for block in blocks), spec.resolution)
