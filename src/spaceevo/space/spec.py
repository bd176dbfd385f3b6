"""Values that describe a network exactly, without building it: layers, blocks and subnets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from spaceevo.errors import ConfigError, choices

LayerKind = Literal["conv", "depthwise", "linear", "pool", "add", "mul"]
LAYER_KINDS: tuple[LayerKind, ...] = get_args(LayerKind)
Activation = Literal["none", "relu", "relu6", "hswish", "swish", "hsigmoid"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


def round_channels(value: float) -> int:
    """Round to the nearest multiple of 8, ties upwards, at least 8 and never below 0.9 of `value`."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def halved(hw: int, stride: int) -> int:
    """Compute height and width after a convolution of this stride, padded by half its kernel."""
    return (hw + stride - 1) // stride


@dataclass(frozen=True, slots=True)
class Layer:
    """Describes one layer of a block with every size it has.

    A convolution (`conv`, `depthwise`, `linear`) is followed by batch norm or, where `norm` is off, has a bias; then
    comes `act`. `stack` convolutions in a row share the one norm and activation after the last (K3 blocks); the first
    has the stride. `pool` is the mean over height and width; `add` and `mul` join two tensors.
    """

    kind: LayerKind
    cin: int
    cout: int
    kernel: int = 1
    stride: int = 1
    act: Activation = "none"
    norm: bool = True
    stack: int = 1

    def __post_init__(self) -> None:
        if self.kind not in LAYER_KINDS:
            raise ConfigError(f"layer: kind = {self.kind!r}; allowed: {choices(LAYER_KINDS)}")
        if self.act not in ACTIVATIONS:
            raise ConfigError(f"layer: act = {self.act!r}; allowed: {choices(ACTIVATIONS)}")

    @property
    def has_weight(self) -> bool:
        """Whether the layer convolves or multiplies by a matrix."""
        return self.kind in ("conv", "depthwise", "linear")

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape `(Cout, Cin, K, K)` of each convolution's weight; a linear layer is a 1×1 convolution."""
        return (self.cout, 1 if self.kind == "depthwise" else self.cin, self.kernel, self.kernel)

    def output_hw(self, hw: int) -> int:
        """Compute height and width of the output for an input of `hw`."""
        return 1 if self.kind == "pool" else halved(hw, self.stride)

    def envelope(self, other: Layer) -> Layer:
        """Find the smallest layer that holds both as slices (ValueError: no layer does)."""
        if (self.kind, self.stride, self.act, self.norm) != (other.kind, other.stride, other.act, other.norm):
            raise ValueError(f"no layer holds both {self} and {other}")
        return replace(
            self,
            cin=max(self.cin, other.cin),
            cout=max(self.cout, other.cout),
            kernel=max(self.kernel, other.kernel),
            stack=max(self.stack, other.stack),
        )


Recipe = dict[str, Layer]


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """Describes one block with every choice made; `expand` is None for types without an expand ratio."""

    type: str
    cin: int
    cout: int
    kernel: int
    expand: float | None
    stride: int
    act: Activation


class BlockChoice(NamedTuple):
    """Holds what a subnet chooses for one block: kernel size, output width, expand ratio."""

    kernel: int
    width: int
    expand: float | None


class Cost(NamedTuple):
    """Counts the multiply-accumulates of convolutions, and parameters, both in millions."""

    mmacs: float
    mparams: float

    def __add__(self, other: object) -> Cost:
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(self.mmacs + other.mmacs, self.mparams + other.mparams)
