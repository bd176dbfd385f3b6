"""Integer programs that have every size of a network and no numbers: what a file and its memory amount to."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spaceevo.quant.convert import FoldedConv, LayerQuant, ProgramBuilder, lower_layer
from spaceevo.quant.program import ConvWeights, Op, OpKind, Program, TensorQuant
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.spec import BlockSpec, Layer
from spaceevo.space.superspace import SpaceMember
from spaceevo.space.walk import output_hw, walk

QUANT = TensorQuant(0.02, 128)
NOTHING = FoldedConv(np.zeros((0, 0, 0, 0), np.int8), np.ones(1), np.zeros(1))


class NamedBlock(NamedTuple):
    """Describes a block where it stands in a network."""

    name: str  # as the names of its layers begin in files, e.g. `stage1.0`
    spec: BlockSpec
    hw: int  # height and width of its input


def named_blocks(member: SpaceMember, spec: SubnetSpec) -> list[NamedBlock]:
    """List every block of a subnet, heads included."""
    hw, found = spec.resolution, []
    for stage, blocks in member.block_specs(spec).items():
        for index, block in enumerate(blocks):
            found.append(NamedBlock(f"{stage}.{index}", block, hw))
            hw = output_hw(block, hw)
    return found


class _HollowBuilder(ProgramBuilder):
    """Gives every weight its shape and takes no memory for it."""

    def block(self, block: NamedBlock, x: str) -> str:
        """Append the operations of a block; return its result's tensor."""

        def lower(name: str, layer: Layer, inputs: tuple[str, ...]) -> str:
            convs = (NOTHING,) * (layer.stack if layer.has_weight else 0)
            before = QUANT if layer.act in ("hswish", "swish") else None
            numbers = LayerQuant(QUANT, convs, (QUANT,) * (len(convs) - 1), before)
            return lower_layer(self, f"{block.name}.{name}", layer, numbers, inputs)

        return walk(block.spec, x, lower)

    def conv(self, name: str, layer: Layer, conv: FoldedConv, stride: int, x: str, quant: TensorQuant) -> str:
        """Append a convolution or linear layer; its channels have different scales."""
        kind: OpKind = "linear" if layer.kind == "linear" else "conv"
        weight = np.broadcast_to(np.int8(1), layer.weight_shape)
        bias = np.broadcast_to(np.int32(1), (layer.cout,))
        weights = ConvWeights(weight, np.arange(1, layer.cout + 1, dtype=np.float32), bias)
        groups = layer.cin if layer.kind == "depthwise" else 1
        return self.emit(Op(kind, name, (x,), weights, stride, groups), quant)


def hollow_program(blocks: Sequence[NamedBlock]) -> Program:
    """Write the program of blocks in a row; each channel has a scale of its own, as training leaves them."""
    first = blocks[0]
    builder = _HollowBuilder((first.spec.cin, first.hw, first.hw), QUANT)
    x = builder.program.input_name
    for block in blocks:
        x = builder.block(block, x)
    return builder.program
