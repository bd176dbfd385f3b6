"""Integer programs: what a quantised network computes, operation by operation, and their exact executor."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spaceevo.quant.quantizer import RELU6_SCALE
from spaceevo.space.spec import halved

OpKind = Literal["conv", "linear", "add", "mul", "mean", "sigmoid", "hard_sigmoid"]
LEVELS = 255
"""Activations are integers 0…255."""


class TensorQuant(NamedTuple):
    """Scale and zero point of a tensor: real value = (integer − zero_point)·scale."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class ConvWeights:
    """Folded weights of a convolution.

    Attributes:
        weight: int8 `(Cout, Cin/groups, K, K)`.
        scale: float32 `(Cout,)`, positive.
        bias: int32 `(Cout,)` on the grid input scale × `scale`.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]


@dataclass(frozen=True)
class Op:
    """One operation: reads `inputs`, writes `output`; every tensor's scale and zero point is in `Program.tensors`.

    `hard_sigmoid` is relu6(x + 3)/6 rounded to 6/256 before the division; its result has scale 1/256.
    """

    kind: OpKind
    output: str
    inputs: tuple[str, ...]
    weights: ConvWeights | None = None
    stride: int = 1
    groups: int = 1


@dataclass
class Program:
    """Operations in order over named uint8 tensors; input `(N, C, H, W)` and output are real values."""

    input_name: str
    input_shape: tuple[int, int, int]
    tensors: dict[str, TensorQuant] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)

    @property
    def output_name(self) -> str:
        """The last operation's tensor."""
        return self.ops[-1].output if self.ops else self.input_name

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, `(C, H, W)` or `(C,)`, without the batch."""
        found: dict[str, tuple[int, ...]] = {self.input_name: self.input_shape}
        for op in self.ops:
            channels, *sides = max((found[name] for name in op.inputs), key=math.prod)
            if op.weights is not None:
                channels = len(op.weights.bias)
            sides = [1 if op.kind == "mean" else halved(side, op.stride) for side in sides]
            found[op.output] = (channels,) if op.kind == "linear" else (channels, *sides)
        return found


def _quantize(real: Tensor, quant: TensorQuant) -> Tensor:
    scale = float(np.float32(quant.scale))
    return (torch.round(real / scale) + quant.zero_point).clamp(0, LEVELS)


def _dequantize(integer: Tensor, quant: TensorQuant) -> Tensor:
    return (integer - quant.zero_point) * float(np.float32(quant.scale))


def _convolve(op: Op, x: Tensor, input_scale: float) -> Tensor:
    """Exact integer accumulation (float64 holds every int32), then the real value."""
    assert op.weights is not None
    weight = torch.from_numpy(op.weights.weight).double()
    bias = torch.from_numpy(op.weights.bias).double()
    if op.kind == "linear":
        total = functional.linear(x.flatten(1), weight.flatten(1), bias)
    else:
        total = functional.conv2d(x, weight, bias, op.stride, weight.shape[-1] // 2, groups=op.groups)
    scale = torch.from_numpy(np.float32(input_scale) * op.weights.scale).double()
    return total * scale.view(1, -1, *[1] * (total.ndim - 2))


def _compute(op: Op, integers: list[Tensor], quants: list[TensorQuant]) -> Tensor:
    if op.kind in ("conv", "linear"):
        return _convolve(op, integers[0] - quants[0].zero_point, quants[0].scale)
    reals = [_dequantize(integer, quant) for integer, quant in zip(integers, quants, strict=True)]
    if op.kind == "add":
        return reals[0] + reals[1]
    if op.kind == "mul":
        return reals[0] * reals[1]
    if op.kind == "mean":
        return reals[0].mean((2, 3), keepdim=True)
    if op.kind == "sigmoid":
        return torch.sigmoid(reals[0])
    sixths = _quantize(reals[0] + 3, TensorQuant(RELU6_SCALE, 0))
    return _dequantize(sixths, TensorQuant(RELU6_SCALE, 0)) / 6


@torch.no_grad()
def execute(program: Program, images: Tensor) -> Tensor:
    """Run a program exactly, in integers.

    Args:
        program: the program.
        images: real input `(N, C, H, W)` of the program's shape.

    Returns:
        The output's real values, `(N, classes)` for a classifier, float32.
    """
    quants = program.tensors
    values = {program.input_name: _quantize(images.double(), quants[program.input_name])}
    for op in program.ops:
        real = _compute(op, [values[name] for name in op.inputs], [quants[name] for name in op.inputs])
        values[op.output] = _quantize(real, quants[op.output])
    output = program.output_name
    return _dequantize(values[output], quants[output]).float()
