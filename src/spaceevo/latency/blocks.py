"""Blocks where they stand: with their input's size, their latency key, and a program of random weights to measure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from spaceevo.quant.convert import FoldedConv, ProgramBuilder, lower_layer, random_recipe_quants
from spaceevo.quant.program import ConvWeights, Op, Program, TensorQuant
from spaceevo.space.blocks import block_type
from spaceevo.space.cost import recipe_of
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.spec import BlockSpec, Layer
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


class _RandomBuilder(ProgramBuilder):
    """Takes random weights as they come: rounding biases that mean nothing would take most of the time."""

    def conv(self, name: str, layer: Layer, conv: FoldedConv, stride: int, x: str, quant: TensorQuant) -> str:
        """Append a convolution or linear layer without bias."""
        weights = ConvWeights(conv.weight, conv.scale.astype(np.float32), np.zeros(layer.cout, np.int32))
        groups = layer.cin if layer.kind == "depthwise" else 1
        return self.emit(Op("linear" if layer.kind == "linear" else "conv", name, (x,), weights, stride, groups), quant)


def random_program(blocks: Sequence[PlacedBlock]) -> Program:
    """The integer program of blocks in a row with random weights, on which latency does not depend.

    Args:
        blocks: the blocks; the first one's input is `(N, Cin, hw, hw)`, hw being 1 for the classifier.
    """
    (first, hw), *_ = blocks
    builder = _RandomBuilder((first.cin, hw, hw), TensorQuant(0.02, 128))
    x = builder.program.input_name
    for index, (spec, _) in enumerate(blocks):
        x = _lower(builder, spec, f"{index}.", x)
    return builder.program


def _lower(builder: ProgramBuilder, spec: BlockSpec, prefix: str, x: str) -> str:
    recipe = recipe_of(spec)
    quants = random_recipe_quants(recipe)

    def run(name: str, /, *inputs: str) -> str:
        if name not in recipe:
            return inputs[0]
        return lower_layer(builder, f"{prefix}{name}", recipe[name], quants[name], inputs)

    return block_type(spec.type).forward(run, x)


def random_block_program(spec: BlockSpec, hw: int) -> Program:
    """The integer program of one block with random weights; `hw` as in `random_program`."""
    return random_program([(spec, hw)])
