"""Integer program → LiteRT (TFLite) file: int8 storage, every number as the program has it, no TensorFlow needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np

from spaceevo.export.flatbuffer import FlatbufferGraph, litert_schema, read_model
from spaceevo.quant.program import LEVELS, ConvWeights, Op, Program, TensorQuant
from spaceevo.quant.quantizer import RELU6_SCALE

INPUT_NAME, OUTPUT_NAME = "images", "logits"
SHIFT = (LEVELS + 1) // 2
"""LiteRT stores integers as int8: ours less this."""


def pads_as_same(size: int, kernel: int, stride: int) -> bool:
    """Whether LiteRT's `SAME`, which favours the end, pads the start by half the kernel as we do."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2 == kernel // 2


class _Writer:
    """Tensors and operators of a program under construction, in LiteRT's layout `(N, H, W, C)`."""

    def __init__(self, program: Program) -> None:
        self.graph = FlatbufferGraph()
        self.quants, self.shapes = program.tensors, program.shapes()
        self.indices: dict[str, int] = {}
        shape = self.layout(program.input_name)
        self.images = self.graph.tensor(INPUT_NAME, shape, "FLOAT32")
        self.graph.operator("QUANTIZE", [self.images], self.result(program.input_name), 1, "QuantizeOptions")
        for op in program.ops:
            self.add(op)

    def layout(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor for one image, channels last."""
        channels, *sides = self.shapes[name]
        return (1, *sides, channels)

    def quantized(self, name: str, shape: Sequence[int], quant: TensorQuant) -> int:
        """Add a tensor of activations."""
        return self.graph.tensor(name, shape, "INT8", quant.scale, quant.zero_point - SHIFT)

    def result(self, name: str) -> int:
        """Add the tensor of this name."""
        self.indices[name] = self.quantized(name, self.layout(name), self.quants[name])
        return self.indices[name]

    def real(self, name: str, output: str) -> int:
        """Append the real values of a tensor."""
        values = self.graph.tensor(output, self.layout(name), "FLOAT32")
        return self.graph.operator("DEQUANTIZE", [self.indices[name]], values, 2, "DequantizeOptions")

    def add(self, op: Op) -> None:
        """Append an operation; saturation does what relu, relu6 and the gates' clips do."""
        inputs = [self.indices[name] for name in op.inputs]
        match op.kind:
            case "conv":
                self.conv(op)
            case "linear":
                self.linear(op)
            case "add":
                self.graph.operator("ADD", inputs, self.result(op.output), 2, "AddOptions")
            case "mul":
                self.graph.operator("MUL", inputs, self.result(op.output), 2, "MulOptions")
            case "mean":
                axes = self.graph.constant(f"{op.output}.axes", np.array([1, 2], np.int32), "INT32")
                output = self.result(op.output)
                self.graph.operator("MEAN", [*inputs, axes], output, 2, "ReducerOptions", keepDims=True)
            case "sigmoid":
                self.graph.operator("LOGISTIC", inputs, self.result(op.output), 2)
            case "hard_sigmoid":
                self.hard_sigmoid(op)

    def conv(self, op: Op) -> None:
        assert op.weights is not None
        height, width, channels = self.layout(op.inputs[0])[1:]
        kernel, stride, x = op.weights.weight.shape[-1], op.stride, self.indices[op.inputs[0]]
        same = pads_as_same(height, kernel, stride) and pads_as_same(width, kernel, stride)
        if not same:
            x = self.pad(op, (height, width, channels), kernel // 2)
        # (Cout, Cin/groups, K, K) → (Cout, K, K, Cin), or (1, K, K, Cout) where every channel has a kernel of its own.
        depthwise = op.groups > 1
        assert op.groups in (1, channels)
        weight = op.weights.weight.transpose(1, 2, 3, 0) if depthwise else op.weights.weight.transpose(0, 2, 3, 1)
        operands = self.operands(op, op.weights, weight, axis=3 if depthwise else 0)
        padding = self.graph.schema.Padding
        settings = {
            "padding": padding.SAME if same else padding.VALID,
            "strideH": stride,
            "strideW": stride,
            "dilationHFactor": 1,
            "dilationWFactor": 1,
        }
        output = self.result(op.output)
        if depthwise:
            options = "DepthwiseConv2DOptions"
            self.graph.operator("DEPTHWISE_CONV_2D", [x, *operands], output, 3, options, depthMultiplier=1, **settings)
        else:
            self.graph.operator("CONV_2D", [x, *operands], output, 3, "Conv2DOptions", **settings)

    def pad(self, op: Op, shape: tuple[int, int, int], margin: int) -> int:
        """Append zeros on all sides; on another grid than the input's, LiteRT would pad wrongly without a word."""
        source, (height, width, channels) = op.inputs[0], shape
        margins = np.array([[0, 0], [margin, margin], [margin, margin], [0, 0]], np.int32)
        padded = (1, height + 2 * margin, width + 2 * margin, channels)
        return self.graph.operator(
            "PAD",
            [self.indices[source], self.graph.constant(f"{op.output}.margins", margins, "INT32")],
            self.quantized(f"{op.output}.padded", padded, self.quants[source]),
            2,
            "PadOptions",
        )

    def linear(self, op: Op) -> None:
        """Append a matrix product; LiteRT flattens its input itself."""
        assert op.weights is not None
        weight = op.weights.weight.reshape(len(op.weights.bias), -1)
        operands = self.operands(op, op.weights, weight, axis=0)
        revision = 4 if len(np.unique(op.weights.scale)) == 1 else 12
        x, output = self.indices[op.inputs[0]], self.result(op.output)
        self.graph.operator("FULLY_CONNECTED", [x, *operands], output, revision, "FullyConnectedOptions")

    def operands(
        self, op: Op, weights: ConvWeights, weight: np.ndarray[tuple[int, ...], np.dtype[np.int8]], axis: int
    ) -> list[int]:
        """Add weight and bias; one scale where all channels share it, else one per channel."""
        shared = op.kind == "linear" and len(np.unique(weights.scale)) == 1
        scale = weights.scale[:1] if shared else weights.scale
        bias_scale = np.float32(self.quants[op.inputs[0]].scale) * scale
        return [
            self.graph.tensor(
                f"{op.output}.weight", weight.shape, "INT8", scale, axis=axis, values=np.ascontiguousarray(weight)
            ),
            self.graph.constant(f"{op.output}.bias", weights.bias, "INT32", bias_scale),
        ]

    def hard_sigmoid(self, op: Op) -> None:
        """relu6(x + 3) on the grid 6/256, then a sixth of it: the same integers on the grid 1/256."""
        source, name = op.inputs[0], op.output
        three, sixth = (
            self.graph.constant(f"{name}.{text}", np.full(1, 127, np.int8), "INT8", value / 127)
            for text, value in (("three", 3.0), ("sixth", 1 / 6))
        )
        sixfold = self.quantized(f"{name}.sixfold", self.layout(name), TensorQuant(RELU6_SCALE, 0))
        self.graph.operator("ADD", [self.indices[source], three], sixfold, 2, "AddOptions")
        self.graph.operator("MUL", [sixfold, sixth], self.result(name), 2, "MulOptions")


def to_tflite(program: Program, metadata: Mapping[str, str] | None = None, watch: Sequence[str] = ()) -> bytes:
    """Write a program as a LiteRT file: float input `images` `(1, H, W, C)`, float output `logits`; N can be resized.

    Inside, everything is int8: the program's integers less 128.

    Args:
        program: the program.
        metadata: kept in the file as JSON (`flatbuffer.read_metadata`).
        watch: tensors of the program whose real values are outputs too, after the logits.

    Raises:
        MissingExtraError: `ai-edge-litert` is not installed.
    """
    writer = _Writer(program)
    outputs = [writer.real(program.output_name, OUTPUT_NAME), *(writer.real(name, f"{name}.real") for name in watch)]
    return writer.graph.pack([writer.images], outputs, f"spaceevo {version('spaceevo')}", metadata or {})


def tflite_op_counts(file: bytes) -> dict[str, int]:
    """Operators, by type, of a LiteRT file."""
    names = {value: name for name, value in vars(litert_schema().BuiltinOperator).items() if not name.startswith("_")}
    model = read_model(file)
    codes = [names[code.builtinCode] for code in model.operatorCodes]
    return dict(Counter(codes[operator.opcodeIndex] for operator in model.subgraphs[0].operators))


def tflite_float_ops(file: bytes) -> dict[str, int]:
    """Operators, by type, that compute in float; the conversions to and from integers at both ends are none."""
    names = {value: name for name, value in vars(litert_schema().BuiltinOperator).items() if not name.startswith("_")}
    model = read_model(file)
    (graph,), real = model.subgraphs, litert_schema().TensorType.FLOAT32
    found: Counter[str] = Counter()
    for operator in graph.operators:
        kind = names[model.operatorCodes[operator.opcodeIndex].builtinCode]
        tensors = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs)]
        if kind not in ("QUANTIZE", "DEQUANTIZE") and any(tensor.type == real for tensor in tensors):
            found[kind] += 1
    return dict(found)
