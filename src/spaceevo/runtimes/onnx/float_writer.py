"""Writes fp32 networks as ONNX, batch norm folded: what the INT8 file's size and latency are compared with."""

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto, helper

from spaceevo.nn.supernet import Network
from spaceevo.runtimes.base import INPUT_NAME, OUTPUT_NAME, Shape
from spaceevo.runtimes.onnx.graph import Graph
from spaceevo.runtimes.plain import folded, to_plain
from spaceevo.runtimes.plain_network import Description, PlainNetwork

_JOINS = {"pool": "GlobalAveragePool", "add": "Add", "mul": "Mul"}


class _FloatGraph(Graph):
    """Writes a plain network layer by layer."""

    def __init__(self, plain: PlainNetwork) -> None:
        super().__init__()
        self.plain = plain

    def add(self, layer: Description, inputs: list[str]) -> str:
        """Write a layer and its activation; the last node has the layer's name."""
        name = layer["name"] if layer["act"] == "none" else f"{layer['name']}.pre"
        if layer["kind"] in _JOINS:
            y = self.node(_JOINS[layer["kind"]], inputs, name)
        else:
            y = self.convolve(layer, inputs[0], name)
        return self.activate(layer["act"], y, layer["name"])

    def convolve(self, layer: Description, x: str, output: str) -> str:
        """Write a layer's stacked convolutions; the first has the stride. A linear layer takes flat inputs."""
        convs = folded(self.plain, layer)
        kernel, stride = layer["kernel"], layer["stride"]
        for index, conv in enumerate(convs):
            name = output if conv is convs[-1] else f"{output}.{index}"
            bias = self.constant(f"{name}.bias", conv.bias.astype(np.float32))
            if layer["kind"] == "linear":
                weight = self.constant(f"{name}.weight", conv.weight.reshape(len(conv.bias), -1).astype(np.float32))
                return self.node("Gemm", [self.node("Flatten", [x], f"{name}.flat"), weight, bias], name, transB=1)
            weight = self.constant(f"{name}.weight", conv.weight.astype(np.float32))
            sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
            group = layer["cout"] if layer["kind"] == "depthwise" else 1
            x, stride = self.node("Conv", [x, weight, bias], name, group=group, **sizes), 1
        return x

    def activate(self, act: str, x: str, output: str) -> str:
        """Write an activation; without one nothing is written."""
        match act:
            case "relu":
                return self.node("Relu", [x], output)
            case "relu6":
                ends = [self.constant(f"{output}.{end}", np.float32(end)) for end in (0, 6)]
                return self.node("Clip", [x, *ends], output)
            case "hsigmoid":
                return self.node("HardSigmoid", [x], output, alpha=1 / 6, beta=0.5)
            case "hswish":
                return self.node("HardSwish", [x], output)
            case "swish":
                return self.node("Mul", [x, self.node("Sigmoid", [x], f"{output}.gate")], output)
        return x


def to_float_onnx(network: Network, shape: Shape, metadata: Mapping[str, str] | None = None) -> bytes:
    """Write a network as an ONNX file: float `images` `(N, C, H, W)` → float `logits` `(N, classes)`, dynamic N."""
    plain = to_plain(network).double()
    graph, values = _FloatGraph(plain), {"images": INPUT_NAME}
    *_, last = layers = plain.config["layers"]
    for layer in layers:
        renamed = {**layer, "name": OUTPUT_NAME} if layer is last else layer
        values[layer["name"]] = graph.add(renamed, [values[name] for name in layer["inputs"]])
    images = helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["batch", *shape])
    of_logits = ["batch", last["cout"]] if last["kind"] == "linear" else None
    logits = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, of_logits)
    return bytes(graph.model(images, [logits], metadata).SerializeToString())
