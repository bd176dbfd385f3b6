"""Writes fp32 networks as LiteRT files, batch norm folded: what the INT8 file's size and latency are compared with."""

from collections.abc import Mapping, Sequence

import numpy as np

from spaceevo.nn.supernet import Network
from spaceevo.runtimes.base import INPUT_NAME, OUTPUT_NAME
from spaceevo.runtimes.litert.layers import LayerGraph, Value, Weights
from spaceevo.runtimes.plain import folded, to_plain
from spaceevo.runtimes.plain_network import Description, PlainNetwork

_FUSED = {"relu": "RELU", "relu6": "RELU6"}


def _weights(plain: PlainNetwork, layer: Description) -> list[Weights]:
    """A layer's convolutions in float32; the last takes in the 3 of hsigmoid, which is relu6(x + 3) / 6."""
    *inner, last = folded(plain, layer)
    convs = [*inner, last._replace(bias=last.bias + 3 * (layer["act"] == "hsigmoid"))]
    return [Weights(conv.weight.astype(np.float32), conv.bias.astype(np.float32)) for conv in convs]


class _FloatWriter:
    """Writes a plain network layer by layer."""

    def __init__(self, plain: PlainNetwork) -> None:
        self.plain = plain
        self.graph = LayerGraph()

    def add(self, layer: Description, x: Sequence[Value]) -> Value:
        act, name = layer["act"], layer["name"]
        linear_name = name if act in ("none", *_FUSED) else f"{name}.pre"
        match layer["kind"]:
            case "pool":
                y = self.graph.mean(linear_name, x[0], None)
            case "add" | "mul":
                y = self.graph.binary(layer["kind"].upper(), linear_name, x[0], x[1], None, _FUSED.get(act, "NONE"))
            case _:
                y = self.convolve(layer, linear_name, x[0])
        return self.gate(name, act, y)

    def convolve(self, layer: Description, name: str, x: Value) -> Value:
        *inner, last = _weights(self.plain, layer)
        if layer["kind"] == "linear":
            return self.graph.linear(name, x, last, None)
        stride, depthwise = layer["stride"], layer["kind"] == "depthwise"
        for index, weights in enumerate(inner):
            x = self.graph.conv(f"{name}.{index}", x, weights, None, stride=stride, depthwise=depthwise)
            stride = 1
        act = (_FUSED | {"hsigmoid": "RELU6"}).get(layer["act"], "NONE")
        return self.graph.conv(name, x, last, None, stride=stride, depthwise=depthwise, act=act)

    def gate(self, name: str, act: str, x: Value) -> Value:
        """Append an activation that no layer takes in: hsigmoid's division by 6, hswish, swish."""
        match act:
            case "hsigmoid":
                return self.graph.binary("MUL", name, x, self.graph.scalar(f"{name}.sixth", 1 / 6, None), None)
            case "hswish":
                return self.graph.unary("HARD_SWISH", name, x, None)
            case "swish":
                return self.graph.binary("MUL", name, x, self.graph.unary("LOGISTIC", f"{name}.gate", x, None), None)
        return x


def to_float_tflite(network: Network, input_channels: int, metadata: Mapping[str, str] | None = None) -> bytes:
    """Write a network as a LiteRT file: float `images` `(1, H, W, C)` → float `logits`; N can be resized."""
    plain = to_plain(network).double()
    writer = _FloatWriter(plain)
    size, layers = plain.config["resolution"], plain.config["layers"]
    images = writer.graph.value(INPUT_NAME, (1, size, size, input_channels), None)
    values = {"images": images}
    for layer in layers:
        renamed = {**layer, "name": OUTPUT_NAME} if layer is layers[-1] else layer
        values[layer["name"]] = writer.add(renamed, [values[name] for name in layer["inputs"]])
    return writer.graph.pack([images.index], [values[layers[-1]["name"]].index], metadata)
