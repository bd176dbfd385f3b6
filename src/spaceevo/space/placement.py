"""Blocks where they stand in a network: with the height and width of their inputs, and their latency keys."""

from collections.abc import Iterable
from functools import lru_cache

from spaceevo.space.blocks import block_type
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.spec import BlockSpec
from spaceevo.space.superspace import SpaceMember, Superspace
from spaceevo.space.walk import output_hw

PlacedBlock = tuple[BlockSpec, int]  # A block and the height and width of its input


@lru_cache(maxsize=1 << 18)
def block_key(spec: BlockSpec, hw: int) -> str:
    """Write the key of a block in latency tables."""
    return block_type(spec.type).key(spec, hw)


def place(specs: Iterable[BlockSpec], hw: int) -> list[PlacedBlock]:
    """Place blocks in a row, the first with an input of height and width `hw`."""
    placed = []
    for spec in specs:
        placed.append((spec, hw))
        hw = output_hw(spec, hw)
    return placed


def subnet_blocks(member: SpaceMember, spec: SubnetSpec) -> list[PlacedBlock]:
    """Place every block of a subnet, heads included."""
    return place((block for blocks in member.block_specs(spec).values() for block in blocks), spec.resolution)


def fixed_blocks(superspace: Superspace, resolution: int) -> list[PlacedBlock]:
    """Place the blocks of the stages that are not searched (stem, stage0, heads), as the smallest subnet has them."""
    placed: list[PlacedBlock] = []
    for space in (superspace.stage_space(stage.name) for stage in superspace.stages if not stage.is_searched):
        specs = space.specs(space.smallest, min(space.cins))
        placed += place(specs, superspace.input_hw(space.name, resolution))
    return placed
