"""Integer programs of blocks with random weights, on which latency does not depend."""

from collections.abc import Sequence

import numpy as np

from spaceevo.quant.convert import WEIGHT_LIMIT, FoldedConv, ProgramBuilder, lower_layer, random_recipe_quants
from spaceevo.quant.program import ConvWeights, Program, TensorQuant
from spaceevo.space.placement import PlacedBlock
from spaceevo.space.spec import BlockSpec, Layer
from spaceevo.space.walk import recipe_of, walk

INPUT_QUANT = TensorQuant(0.02, 128)


class _RandomBuilder(ProgramBuilder):
    """Takes random weights as they come: rounding biases that mean nothing would take most of the time."""

    def __init__(self, shape: tuple[int, int, int], weight_limit: int) -> None:
        super().__init__(shape, INPUT_QUANT)
        self.weight_limit = weight_limit

    def rounded(self, conv: FoldedConv, input_scale: float) -> ConvWeights:
        return ConvWeights(conv.weight, conv.scale.astype(np.float32), np.zeros(len(conv.bias), np.int32))

    def block(self, spec: BlockSpec, prefix: str, x: str) -> str:
        quants = random_recipe_quants(recipe_of(spec), self.weight_limit)

        def lower(name: str, layer: Layer, inputs: tuple[str, ...]) -> str:
            return lower_layer(self, f"{prefix}{name}", layer, quants[name], inputs)

        return walk(spec, x, lower)


def random_program(blocks: Sequence[PlacedBlock], weight_limit: int = WEIGHT_LIMIT) -> Program:
    """Write the integer program of blocks in a row, with weights up to a limit; it reads `(N, Cin, hw, hw)`."""
    (first, hw), *_ = blocks
    builder = _RandomBuilder((first.cin, hw, hw), weight_limit)
    x = builder.program.input_name
    for index, (spec, _) in enumerate(blocks):
        x = builder.block(spec, f"{index}.", x)
    return builder.program


def random_block_program(spec: BlockSpec, hw: int, weight_limit: int = WEIGHT_LIMIT) -> Program:
    """Write the integer program of one block; `hw` is 1 for the classifier."""
    return random_program([(spec, hw)], weight_limit)


def empty_program(shape: tuple[int, int, int]) -> Program:
    """Make a program without operations: it quantises a tensor `(C, H, W)` and dequantises it again."""
    return ProgramBuilder(shape, INPUT_QUANT).program
