"""Network → integer program: fold batch norm, round biases, give every tensor its scale and zero point."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spaceevo.quant.program import ConvWeights, Op, OpKind, Program, TensorQuant
from spaceevo.quant.quantizer import GATE_SCALE, weight_limit
from spaceevo.space.spec import Layer

BIAS_LIMIT = 2**30  # Biases stay well inside int32, so that adding the products cannot overflow
WEIGHT_LIMIT = weight_limit(8)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class FoldedConv:
    """Holds a convolution with batch norm folded in: int8 weights, positive scale per channel, real bias."""

    weight: NDArray[np.int8]
    scale: Array
    bias: Array
    limit: int = WEIGHT_LIMIT  # the greatest integer that its weights may become


@dataclass(frozen=True)
class LayerQuant:
    """Holds the numbers of one quantised layer.

    `convs` are its convolutions, one but for stacks; tensors are quantised `between` those of a stack, before a gated
    activation (hswish, swish), and at the result.
    """

    output: TensorQuant
    convs: tuple[FoldedConv, ...] = ()
    between: tuple[TensorQuant, ...] = ()
    before_act: TensorQuant | None = None


def fold_norm(weight: Array, scale: float, gain: Array, shift: Array, limit: int = WEIGHT_LIMIT) -> FoldedConv:
    """Fold `gain·conv(x) + shift` into integer weights: the same integers, a scale a channel, signs moved.

    `weight` `(Cout, Cin, K, K)` are integers −limit…limit; `gain` `(Cout,)` may have any sign.
    """
    signs = np.where(gain < 0, -1.0, 1.0)
    signed = weight * signs.reshape(-1, *[1] * (weight.ndim - 1))
    return FoldedConv(signed.astype(np.int8), np.abs(gain) * scale, shift, limit)


def weight_grid(peak: Tensor, scale: Tensor, bias: Tensor, input_scale: float, limit: int = WEIGHT_LIMIT) -> Tensor:
    """Choose the scale per channel of a convolution's folded weights in the program, float32 `(Cout,)`.

    The weights are taken as whole multiples of their integers, as large as `limit` allows, so that biases round finer;
    a channel too faint for its bias gets a coarser grid. `peak` is each channel's greatest integer, without sign.
    """
    factor = torch.where(peak > 0, limit // peak.clamp(min=1), 1)
    coarsest = (bias.abs() / (input_scale * BIAS_LIMIT)).clamp(min=1e-12)
    return torch.maximum(scale / factor, coarsest).float()


def bias_grid(scale: Tensor, input_scale: float) -> Tensor:
    """Compute the accumulator's grid, on which biases are integers, float64 `(Cout,)`; in float32, as runtimes do."""
    return (scale * torch.tensor(input_scale, dtype=torch.float32, device=scale.device)).double()


class QuantizedLayer(Protocol):
    """Stands for a layer of a network that knows its numbers."""

    active: Layer

    def layer_quant(self) -> LayerQuant:
        """Give the numbers of the quantised layer as it is active."""
        ...


class ProgramBuilder:
    """Appends operations to a program and names their tensors."""

    def __init__(self, input_shape: tuple[int, int, int], input_quant: TensorQuant) -> None:
        self.program = Program("images", input_shape, {"images": input_quant})

    def emit(self, op: Op, quant: TensorQuant) -> str:
        """Append an operation whose result has this quantisation; return the result's name."""
        self.program.ops.append(op)
        self.program.tensors[op.output] = quant
        return op.output

    def layer(self, name: str, leaf: QuantizedLayer, inputs: Sequence[str]) -> str:
        """Append the operations of a network's layer; return its result's tensor."""
        return lower_layer(self, name, leaf.active, leaf.layer_quant(), inputs)

    def conv(self, name: str, layer: Layer, conv: FoldedConv, stride: int, x: str, quant: TensorQuant) -> str:
        """Append a convolution or linear layer."""
        kind: OpKind = "linear" if layer.kind == "linear" else "conv"
        groups = layer.cin if layer.kind == "depthwise" else 1
        weights = self.rounded(conv, self.program.tensors[x].scale)
        return self.emit(Op(kind, name, (x,), weights, stride, groups), quant)

    def rounded(self, conv: FoldedConv, input_scale: float) -> ConvWeights:
        """Round weights and biases to the program's grids."""
        peak = np.abs(conv.weight.astype(np.float64)).max(axis=(1, 2, 3))
        peaks, scales, biases = map(torch.from_numpy, (peak, conv.scale, conv.bias))
        scale = weight_grid(peaks, scales, biases, input_scale, conv.limit)
        grid = bias_grid(scale, input_scale).numpy()
        multiple = (conv.scale / scale.double().numpy()).reshape(-1, *[1] * (conv.weight.ndim - 1))
        weight = np.round(conv.weight * multiple).astype(np.int8)
        return ConvWeights(weight, scale.numpy(), np.round(conv.bias / grid).astype(np.int32))


def lower_layer(builder: ProgramBuilder, name: str, layer: Layer, numbers: LayerQuant, inputs: Sequence[str]) -> str:
    """Append the operations of one layer and return its result's tensor."""
    before = numbers.before_act
    linear_name = name if before is None else f"{name}.pre"
    quant = numbers.output if before is None else before
    match layer.kind:
        case "conv" | "depthwise" | "linear":
            x = _lower_convs(builder, linear_name, layer, numbers, inputs[0], quant)
        case "pool":
            x = builder.emit(Op("mean", linear_name, (inputs[0],)), quant)
        case "add" | "mul":
            x = builder.emit(Op(layer.kind, linear_name, tuple(inputs)), quant)
        case unknown:
            assert_never(unknown)
    if before is None:
        return x
    gate_kind: OpKind = "hard_sigmoid" if layer.act == "hswish" else "sigmoid"
    gate = builder.emit(Op(gate_kind, f"{name}.gate", (x,)), TensorQuant(GATE_SCALE, 0))
    return builder.emit(Op("mul", name, (x, gate)), numbers.output)


def _lower_convs(
    builder: ProgramBuilder, name: str, layer: Layer, numbers: LayerQuant, x: str, output: TensorQuant
) -> str:
    convs = list(numbers.convs)
    if layer.act == "hsigmoid":
        # relu6(y + 3)/6 = clip(y/6 + ½, 0, 1): the convolution takes sixth and half, the integer range the clip.
        last = convs[-1]
        convs[-1] = replace(last, scale=last.scale / 6, bias=last.bias / 6 + 0.5)
    for index, conv in enumerate(convs):
        is_last = index == len(convs) - 1
        quant = output if is_last else numbers.between[index]
        stride = layer.stride if index == 0 else 1
        x = builder.conv(name if is_last else f"{name}.{index}", layer, conv, stride, x, quant)
    return x


class Lowers(Protocol):
    """Stands for a network that can write itself into a program builder."""

    def input_quant(self) -> TensorQuant:
        """Give the quantisation of the images."""
        ...

    def lower(self, writer: ProgramBuilder, images: str, /) -> str:
        """Write the network's layers in order; return the logits' tensor."""
        ...


def to_program(network: Lowers, input_shape: tuple[int, int, int]) -> Program:
    """Turn an extracted network, in eval mode, into its program for `(C, H, W)` images.

    It was trained under a deployable scheme.
    """
    builder = ProgramBuilder(input_shape, network.input_quant())
    network.lower(builder, builder.program.input_name)
    return builder.program


def random_recipe_quants(recipe: Mapping[str, Layer], limit: int = WEIGHT_LIMIT) -> dict[str, LayerQuant]:
    """Make up plausible numbers for every layer of a recipe without trained weights, to measure its latency."""
    rng, signed, found = np.random.default_rng(0), TensorQuant(0.02, 128), dict[str, LayerQuant]()
    for name, layer in recipe.items():
        is_unsigned = layer.act in ("relu", "relu6", "hsigmoid")
        output = TensorQuant(GATE_SCALE if layer.act == "hsigmoid" else 0.02, 0 if is_unsigned else 128)
        convs = tuple(
            FoldedConv(
                rng.integers(-limit, limit + 1, layer.weight_shape, dtype=np.int8),
                np.full(layer.cout, 0.02 * WEIGHT_LIMIT / limit / math.prod(layer.weight_shape[1:]) ** 0.5),
                np.zeros(layer.cout),
            )
            for _ in range(layer.stack if layer.has_weight else 0)
        )
        before = signed if layer.act in ("hswish", "swish") else None
        found[name] = LayerQuant(output, convs, (signed,) * (len(convs) - 1), before)
    return found
