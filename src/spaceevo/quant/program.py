"""Integer programs: what a quantised network computes, operation by operation, and their executor."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from spaceevo.quant.quantizer import LEVELS, RELU6_SCALE
from spaceevo.space.spec import halved

OpKind = Literal["conv", "linear", "add", "mul", "mean", "sigmoid", "hard_sigmoid"]


class TensorQuant(NamedTuple):
    """Holds scale and zero point of a tensor: real value = (integer − zero_point)·scale."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class ConvWeights:
    """Holds a convolution's folded weights `(Cout, Cin/groups, K, K)`, and per channel `(Cout,)` their scale and bias.

    Scales are positive; a bias is on the grid input scale × `scale`.
    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.int32]


@dataclass(frozen=True)
class Op:
    """Describes one operation: it reads `inputs` and writes `output`; `Program.tensors` has all scales and zero points.

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
    """Lists operations in order over named uint8 tensors; input `(N, C, H, W)` and output are real values."""

    input_name: str
    input_shape: tuple[int, int, int]
    tensors: dict[str, TensorQuant] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)

    @property
    def output_name(self) -> str:
        """The last operation's tensor."""
        return self.ops[-1].output if self.ops else self.input_name

    @property
    def largest_weight(self) -> int:
        """The greatest weight of all, without sign."""
        return max((int(np.abs(op.weights.weight.astype(np.int16)).max()) for op in self.ops if op.weights), default=0)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Compute the shape of every tensor, `(C, H, W)` or `(C,)`, without the batch."""
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


class Executor(nn.Module):
    """Runs a program in integers.

    In float64 sums are exact, so this defines what a program means. In float32, which accelerators are fast in, sums
    beyond 2²⁴ are rounded.
    """

    def __init__(self, program: Program, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.program = program
        self.dtype = dtype
        for index, op in enumerate(program.ops):
            if op.weights is not None:
                scale = np.float32(program.tensors[op.inputs[0]].scale) * op.weights.scale
                for name, values in (("weight", op.weights.weight), ("bias", op.weights.bias), ("scale", scale)):
                    self.register_buffer(f"{name}{index}", torch.from_numpy(values).to(dtype), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Run on real input `(N, C, H, W)` of the program's shape → the output's real values, float32."""
        output = self.program.output_name
        return _dequantize(self.integers(images, [output])[output], self.program.tensors[output]).float()

    @torch.no_grad()
    def integers(self, images: Tensor, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """Compute the integers of every tensor, or of those `wanted`; the others are freed once used."""
        quants, name = self.program.tensors, self.program.input_name
        last_use = {x: index for index, op in enumerate(self.program.ops) for x in op.inputs}
        values = {name: _quantize(images.to(self.dtype), quants[name])}
        for index, op in enumerate(self.program.ops):
            values[op.output] = _quantize(self.real(index, values), quants[op.output])
            for x in {*op.inputs}:
                if wanted is not None and x not in wanted and last_use[x] == index:
                    del values[x]
        return values

    @torch.no_grad()
    def real(self, index: int, integers: Mapping[str, Tensor]) -> Tensor:
        """Compute what the operation of this index gives before it is rounded, from the integers that it reads."""
        op, quants = self.program.ops[index], self.program.tensors
        first = op.inputs[0]
        if op.weights is not None:
            return self._convolve(index, op, integers[first] - quants[first].zero_point)
        reals = [_dequantize(integers[name], quants[name]) for name in op.inputs]
        match op.kind:
            case "add":
                return reals[0] + reals[1]
            case "mul":
                return reals[0] * reals[1]
            case "mean":
                return reals[0].mean((2, 3), keepdim=True)
            case "sigmoid":
                return torch.sigmoid(reals[0])
            case "hard_sigmoid":
                sixths = TensorQuant(RELU6_SCALE, 0)
                return _dequantize(_quantize(reals[0] + 3, sixths), sixths) / 6
            case "conv" | "linear":
                raise AssertionError(f"{op.output} has no weights")
            case unknown:
                assert_never(unknown)

    def _convolve(self, index: int, op: Op, x: Tensor) -> Tensor:
        """Accumulate integers, then the real value."""
        weight, bias, scale = (self.get_buffer(f"{name}{index}") for name in ("weight", "bias", "scale"))
        if op.kind == "linear":
            total = functional.linear(x.flatten(1), weight.flatten(1), bias)
        else:
            total = functional.conv2d(x, weight, bias, op.stride, weight.shape[-1] // 2, groups=op.groups)
        return total * scale.view(1, -1, *[1] * (total.ndim - 2))


def execute(program: Program, images: Tensor) -> Tensor:
    """Run a program exactly on real images `(N, C, H, W)` of its shape; a classifier gives logits `(N, classes)`."""
    result: Tensor = Executor(program)(images)
    return result
