"""INT8 programs of single blocks with random weights: what is measured for a table."""

from __future__ import annotations

from collections.abc import Iterable

from spaceevo.quant.convert import ProgramBuilder, lower_layer, random_recipe_quants
from spaceevo.quant.program import Program, TensorQuant
from spaceevo.space.blocks import block_type
from spaceevo.space.cost import output_hw, recipe_of
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.spec import BlockSpec
from spaceevo.space.superspace import SpaceMember

PlacedBlock = tuple[BlockSpec, int]
"""A block and the height and width of its input."""


def random_block_program(spec: BlockSpec, hw: int) -> Program:
    """The integer program of one block for an input `(1, cin, hw, hw)`; latency does not depend on the weights."""
    recipe = recipe_of(spec)
    quants = random_recipe_quants(recipe)
    builder = ProgramBuilder((spec.cin, hw, hw), TensorQuant(0.02, 128))

    def run(name: str, /, *inputs: str) -> str:
        return lower_layer(builder, name, recipe[name], quants[name], inputs) if name in recipe else inputs[0]

    block_type(spec.type).forward(run, builder.program.input_name)
    return builder.program


def place(specs: Iterable[BlockSpec], hw: int) -> list[PlacedBlock]:
    """Blocks in a row, each with its input's height and width; the classifier sees 1×1."""
    placed = []
    for spec in specs:
        placed.append((spec, 1 if spec.type == "Logits" else hw))
        hw = output_hw(spec, hw)
    return placed


def subnet_blocks(member: SpaceMember, spec: SubnetSpec) -> list[PlacedBlock]:
    """Every block of a subnet, heads included."""
    specs = [block for blocks in member.block_specs(spec).values() for block in blocks]
    return place(specs, spec.resolution)


def block_key(placed: PlacedBlock) -> str:
    """Key of a block in latency tables."""
    spec, hw = placed
    return block_type(spec.type).key(spec, hw)
