"""Writes fp32 networks as LiteRT files, batch norm folded: what the INT8 file's size and latency are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spaceevo.runtimes.base import INPUT_NAME, OUTPUT_NAME
from spaceevo.runtimes.litert.layers import LayerGraph, Value, Weights
from spaceevo.runtimes.litert.writer import producer
from spaceevo.runtimes.plain_network import Description, PlainNetwork

_FUSED = {"relu": "RELU", "relu6": "RELU6"}


@torch.no_grad()
def _folded(plain: PlainNetwork, layer: Description) -> list[Weights]:
    """Weights of a layer's convolutions, batch norm in the last."""
    found = []
    for index in range(layer["stack"]):
        conv = plain.get_submodule(f"{layer['module']}.convs.{index}")
        assert isinstance(conv, nn.Conv2d)
        bias = torch.zeros(layer["cout"]) if conv.bias is None else conv.bias
        found.append((conv.weight.double(), bias.double()))
    if layer["norm"]:
        norm = plain.get_submodule(f"{layer['module']}.norm")
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        weight, _ = found[-1]
        found[-1] = (weight * gain.view(-1, 1, 1, 1), norm.bias.double() - norm.running_mean.double() * gain)
    if layer["act"] == "hsigmoid":  # relu6(x + 3) / 6
        weight, bias = found[-1]
        found[-1] = (weight, bias + 3)
    return [Weights(_float32(weight), _float32(bias)) for weight, bias in found]


def _float32(values: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.cpu().float().numpy()
    return array


class _FloatWriter:
    """Layers of a plain network under construction."""

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
        act, convs = layer["act"], _folded(self.plain, layer)
        if layer["kind"] == "linear":
            return self.graph.linear(name, x, convs[0], None)
        for index, weights in enumerate(convs):
            is_last = index == len(convs) - 1
            x = self.graph.conv(
                name if is_last else f"{name}.{index}",
                x,
                weights,
                None,
                stride=layer["stride"] if index == 0 else 1,
                depthwise=layer["kind"] == "depthwise",
                act=({"hsigmoid": "RELU6"} | _FUSED).get(act, "NONE") if is_last else "NONE",
            )
        return x

    def gate(self, name: str, act: str, x: Value) -> Value:
        """Activations that no layer takes in: hsigmoid's division by 6, hswish, swish."""
        if act == "hsigmoid":
            return self.graph.binary("MUL", name, x, self.graph.scalar(f"{name}.sixth", 1 / 6, None), None)
        if act == "hswish":
            return self.graph.unary("HARD_SWISH", name, x, None)
        if act == "swish":
            return self.graph.binary("MUL", name, x, self.graph.unary("LOGISTIC", f"{name}.gate", x, None), None)
        return x


def to_float_tflite(plain: PlainNetwork, input_channels: int = 3, metadata: Mapping[str, str] | None = None) -> bytes:
    """Write a plain network as a LiteRT file: float `images` `(1, H, W, C)` → float `logits`; N can be resized.

    Raises:
        MissingExtraError: `ai-edge-litert` is not installed.
    """
    writer, size = _FloatWriter(plain), plain.config["resolution"]
    images = writer.graph.value(INPUT_NAME, (1, size, size, input_channels), None)
    values, layers = {"images": images}, plain.config["layers"]
    for layer in layers:
        renamed = {**layer, "name": OUTPUT_NAME} if layer is layers[-1] else layer
        values[layer["name"]] = writer.add(renamed, [values[name] for name in layer["inputs"]])
    return writer.graph.pack([images.index], [values[layers[-1]["name"]].index], producer(), metadata or {})
