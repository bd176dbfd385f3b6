"""Writes layers in LiteRT's layout `(N, H, W, C)`, in int8 or float: what the integer and the fp32 writer share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spaceevo.quant.program import TensorQuant
from spaceevo.quant.quantizer import LEVELS
from spaceevo.runtimes.litert.flatbuffer import FlatbufferGraph
from spaceevo.runtimes.litert.packing import PackedKernel, pack_kernel, packed_pixels
from spaceevo.space.spec import halved

SHIFT = (LEVELS + 1) // 2  # LiteRT stores integers as int8: ours less this


@dataclass(frozen=True)
class Value:
    """Stands for a tensor of the graph by its index."""

    index: int  # its index
    shape: tuple[int, ...]  # `(1, H, W, C)` or `(1, C)`
    quant: TensorQuant | None  # scale and zero point of its integers 0…255; None for a real tensor


class Weights(NamedTuple):
    """Holds weight `(Cout, Cin/groups, K, K)` and bias `(Cout,)`: int8, int32 and a scale per channel, or float32."""

    weight: NDArray[np.generic]
    bias: NDArray[np.generic]
    scale: NDArray[np.float32] | None = None


class Window(NamedTuple):
    """Says how a convolution moves: zeros around rows and around columns, and steps down and across."""

    margins: tuple[tuple[int, int], tuple[int, int]]
    strides: tuple[int, int]


def pads_as_same(size: int, kernel: int, stride: int) -> bool:
    """Tell whether LiteRT's `SAME`, which favours the end, pads the start by half the kernel as we do."""
    total = max((halved(size, stride) - 1) * stride + kernel - size, 0)
    return total // 2 == kernel // 2


class LayerGraph(FlatbufferGraph):
    """Collects a graph layer by layer; `act` is a name of the schema's `ActivationFunctionType`.

    Pixels of narrow integer convolutions are packed to `packed_channels`; 1 packs none.
    """

    def __init__(self, packed_channels: int = 1) -> None:
        super().__init__()
        self.packed_channels = packed_channels

    def value(self, name: str, shape: tuple[int, ...], quant: TensorQuant | None) -> Value:
        """Add a tensor of activations, int8 or float."""
        if quant is None:
            return Value(self.tensor(name, shape, "FLOAT32"), shape, None)
        return Value(self.tensor(name, shape, "INT8", quant.scale, quant.zero_point - SHIFT), shape, quant)

    def scalar(self, name: str, number: float, quant: TensorQuant | None) -> Value:
        """Add a constant of one element, int8 or float as its partner's `quant`."""
        if quant is None:
            return Value(self.constant(name, np.full(1, number, np.float32), "FLOAT32"), (1,), None)
        scale = number / 127
        index = self.constant(name, np.full(1, 127, np.int8), "INT8", scale)
        return Value(index, (1,), TensorQuant(scale, SHIFT))

    def conv(
        self,
        name: str,
        x: Value,
        weights: Weights,
        quant: TensorQuant | None,
        *,
        stride: int = 1,
        depthwise: bool = False,
        act: str = "NONE",
    ) -> Value:
        """Append a convolution padded by half its kernel."""
        kernel = weights.weight.shape[-1]
        if x.shape[1:3] == (1, 1) and kernel == 1 and act == "NONE":
            return self.linear(name, x, weights, quant, keeps_shape=True)  # the same, and faster on x86
        pixels = 0 if depthwise else packed_pixels(x.shape[3], x.shape[2], stride, self.packed_channels)
        if pixels and quant is not None:
            return self._packed_conv(name, x, weights, quant, stride, pack_kernel(weights.weight, stride, pixels))
        margin = (kernel // 2, kernel // 2)
        return self._conv(name, x, weights, quant, Window((margin, margin), (stride, stride)), depthwise, act)

    def _packed_conv(
        self, name: str, x: Value, weights: Weights, quant: TensorQuant, stride: int, packed: PackedKernel
    ) -> Value:
        """Append a convolution over pixels side by side as one, and what packs and unpacks them."""
        _, height, width, channels = x.shape
        assert weights.scale is not None
        wide = Weights(packed.weight, np.tile(weights.bias, packed.pixels), np.tile(weights.scale, packed.pixels))
        block, margin = stride * packed.pixels, packed.weight.shape[2] // 2
        x = self.reshape(f"{name}.packed", x, (1, height, width // block, channels * block))
        window = Window(((margin, margin), (packed.left, packed.right)), (stride, 1))
        y = self._conv(f"{name}.wide", x, wide, quant, window)
        return self.reshape(name, y, (1, y.shape[1], halved(width, stride), len(weights.bias)))

    def _conv(
        self,
        name: str,
        x: Value,
        weights: Weights,
        quant: TensorQuant | None,
        window: Window,
        depthwise: bool = False,
        act: str = "NONE",
    ) -> Value:
        """Append a convolution in LiteRT's terms."""
        sides, strides = x.shape[1:3], window.strides
        same = all(
            pads_as_same(side, size, step) and margins == (size // 2, size // 2)
            for side, size, step, margins in zip(sides, weights.weight.shape[2:], strides, window.margins, strict=True)
        )
        if not same:
            x = self._pad(f"{name}.padded", x, window.margins)
        # LiteRT wants (Cout, K, K, Cin), or (1, K, K, Cout) where every channel has a kernel of its own.
        order, axis = ((1, 2, 3, 0), 3) if depthwise else ((0, 2, 3, 1), 0)
        operands = self._operands(name, x, weights, weights.weight.transpose(order), axis)
        kind, options = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
        settings: dict[str, object] = {"depthMultiplier": 1} if depthwise else {}
        settings |= {"padding": self.schema.Padding.SAME if same else self.schema.Padding.VALID}
        settings |= {"strideH": strides[0], "strideW": strides[1], "dilationHFactor": 1, "dilationWFactor": 1}
        y = self.value(name, (1, *map(halved, sides, strides), len(weights.bias)), quant)
        return self._append(kind, [x.index, *operands], y, options, 3, **self._fused(act), **settings)

    def _pad(self, name: str, x: Value, margins: tuple[tuple[int, int], tuple[int, int]]) -> Value:
        """Append zeros around; on another grid than the input's, LiteRT would pad wrongly without a word."""
        if not any(map(sum, margins)):
            return x
        around = np.array([(0, 0), *margins, (0, 0)], np.int32)
        shape = tuple(size + int(zeros) for size, zeros in zip(x.shape, around.sum(axis=1), strict=True))
        y = self.value(name, shape, x.quant)
        return self._append("PAD", [x.index, self.constant(f"{name}.margins", around, "INT32")], y, "PadOptions")

    def reshape(self, name: str, x: Value, shape: tuple[int, ...]) -> Value:
        """Append another reading of the same memory, for any batch."""
        sizes = np.array([-1, *shape[1:]], np.int32)
        y = self.value(name, shape, x.quant)
        operands = [x.index, self.constant(f"{name}.shape", sizes, "INT32")]
        return self._append("RESHAPE", operands, y, "ReshapeOptions", 1, newShape=sizes)

    def linear(
        self, name: str, x: Value, weights: Weights, quant: TensorQuant | None, *, keeps_shape: bool = False
    ) -> Value:
        """Append a matrix product; LiteRT flattens its input itself, unless the result is to be `(1, 1, 1, C)`."""
        version = 1
        if weights.scale is not None:
            shared = len(np.unique(weights.scale)) == 1
            version = 4 if shared else 12
            weights = weights._replace(scale=weights.scale[:1]) if shared else weights
        operands = self._operands(name, x, weights, weights.weight.reshape(len(weights.bias), -1), 0)
        y = self.value(name, (1, *(1, 1) * keeps_shape, len(weights.bias)), quant)
        version = max(version, 5 * keeps_shape)
        options = "FullyConnectedOptions"
        self.operator("FULLY_CONNECTED", [x.index, *operands], y.index, version, options, keepNumDims=keeps_shape)
        return y

    def binary(self, kind: str, name: str, x: Value, y: Value, quant: TensorQuant | None, act: str = "NONE") -> Value:
        """Append `ADD` or `MUL`; the smaller operand is repeated."""
        z = self.value(name, max(x.shape, y.shape, key=np.prod), quant)
        return self._append(kind, [x.index, y.index], z, f"{kind.capitalize()}Options", **self._fused(act))

    def mean(self, name: str, x: Value, quant: TensorQuant | None) -> Value:
        """Append the mean over height and width."""
        axes = self.constant(f"{name}.axes", np.array([1, 2], np.int32), "INT32")
        y = self.value(name, (1, 1, 1, x.shape[-1]), quant)
        return self._append("MEAN", [x.index, axes], y, "ReducerOptions", keepDims=True)

    def unary(self, kind: str, name: str, x: Value, quant: TensorQuant | None) -> Value:
        """Append an operator without options on every element, e.g. `LOGISTIC`."""
        return self._append(kind, [x.index], self.value(name, x.shape, quant))

    def _append(
        self,
        kind: str,
        inputs: Sequence[int],
        y: Value,
        options: str = "",
        int8_version: int = 2,
        /,
        **settings: object,
    ) -> Value:
        """Append an operator, of version 1 where it computes in float; return its result."""
        self.operator(kind, inputs, y.index, 1 if y.quant is None else int8_version, options, **settings)
        return y

    def _operands(self, name: str, x: Value, weights: Weights, weight: NDArray[np.generic], axis: int) -> list[int]:
        """Add a convolution's weight, already in LiteRT's layout, and bias."""
        weight = np.ascontiguousarray(weight)
        if weights.scale is None or x.quant is None:
            return [
                self.constant(f"{name}.weight", weight, "FLOAT32"),
                self.constant(f"{name}.bias", weights.bias, "FLOAT32"),
            ]
        # The accumulator's grid in float32, as the executor has it.
        bias_scale = np.float32(x.quant.scale) * weights.scale
        return [
            self.tensor(f"{name}.weight", weight.shape, "INT8", weights.scale, axis=axis, values=weight),
            self.constant(f"{name}.bias", weights.bias, "INT32", bias_scale),
        ]

    def _fused(self, act: str) -> dict[str, object]:
        return {"fusedActivationFunction": getattr(self.schema.ActivationFunctionType, act)}
