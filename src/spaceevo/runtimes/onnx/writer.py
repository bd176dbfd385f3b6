"""Writes integer programs as ONNX: pairs of Q and DQ, every number as the program has it."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from spaceevo.quant.program import ConvWeights, Op, Program, TensorQuant
from spaceevo.quant.quantizer import GATE_SCALE, RELU6_SCALE
from spaceevo.runtimes.base import OUTPUT_NAME, PLAIN_FILE, FileOptions
from spaceevo.runtimes.onnx.graph import Graph
from spaceevo.runtimes.preprocessing import INSIDE_NAME, Preprocessing

_REAL_OPS = {"add": "Add", "mul": "Mul", "mean": "GlobalAveragePool", "sigmoid": "Sigmoid"}


class _Graph(Graph):
    """Writes a program operation by operation.

    Tensor `t` of the program is written as its integers `t.q` and their real values `t.dq`, once for all its readers:
    with a pair for each reader, sums would stay in float.
    """

    def __init__(self, program: Program, preprocessing: Preprocessing | None) -> None:
        super().__init__()
        self.quants = program.tensors
        self.output = program.output_name
        self.grids: dict[str, list[str]] = {}
        self.reals: dict[str, str] = {}
        readers = Counter(name for op in program.ops for name in op.inputs)
        self.branches = {op.output for op in program.ops if op.kind == "conv" and readers[op.output] == 1}
        images = program.input_name
        self.settle(images if preprocessing is None else self.normalize(preprocessing), images)
        for op in program.ops:
            self.add(op)
        self.real(self.output)

    def grid(self, name: str, quant: TensorQuant) -> list[str]:
        return [
            self.constant(f"{name}.scale", np.float32(quant.scale)),
            self.constant(f"{name}.zero_point", np.uint8(quant.zero_point)),
        ]

    def settle(self, result: str, tensor: str) -> None:
        """Quantise an operation's result; saturation does what relu, relu6 and the gates' clips do."""
        self.grids[tensor] = self.grid(tensor, self.quants[tensor])
        self.node("QuantizeLinear", [result, *self.grids[tensor]], f"{tensor}.q")

    def real(self, tensor: str) -> str:
        """Write a tensor's real values when they are first read; return their name."""
        if tensor not in self.reals:
            name = OUTPUT_NAME if tensor == self.output else f"{tensor}.dq"
            self.reals[tensor] = self.node("DequantizeLinear", [f"{tensor}.q", *self.grids[tensor]], name)
        return self.reals[tensor]

    def summand(self, tensor: str) -> str:
        """Write the real values of a tensor that a sum reads; those of a convolution that ends in it are rounded twice.

        OpenVINO takes a sum into the convolution before it, whose result it then leaves unrounded: a fifth of the sum's
        integers come out a step apart. Of two roundings it keeps one, unless the convolution is rectified, for then it
        sees that the second changes nothing; ONNX Runtime drops the second in any case.
        """
        real = self.real(tensor)
        if tensor not in self.branches:
            return real
        self.node("QuantizeLinear", [real, *self.grids[tensor]], f"{tensor}.again.q")
        return self.node("DequantizeLinear", [f"{tensor}.again.q", *self.grids[tensor]], f"{tensor}.again.dq")

    def normalize(self, preprocessing: Preprocessing) -> str:
        gain, shift = (values.reshape(1, -1, 1, 1) for values in preprocessing.factors())
        x = self.node("Cast", [INSIDE_NAME], f"{INSIDE_NAME}.real", to=TensorProto.FLOAT)
        x = self.node("Mul", [x, self.constant(f"{INSIDE_NAME}.gain", gain)], f"{INSIDE_NAME}.scaled")
        return self.node("Add", [x, self.constant(f"{INSIDE_NAME}.shift", shift)], f"{INSIDE_NAME}.normalized")

    def add(self, op: Op) -> None:
        result = f"{op.output}.real"
        if op.kind == "hard_sigmoid":
            self.hard_sigmoid(op, result)
            return
        if op.weights is None:
            read = self.summand if op.kind == "add" else self.real
            self.node(_REAL_OPS[op.kind], [read(name) for name in op.inputs], result)
        elif op.kind == "linear":
            self.linear(op, op.weights, result)
        else:
            self.conv(op, op.weights, result)
        self.settle(result, op.output)

    def conv(self, op: Op, weights: ConvWeights, result: str) -> None:
        kernel = weights.weight.shape[-1]
        shape = {"kernel_shape": [kernel] * 2, "strides": [op.stride] * 2, "pads": [kernel // 2] * 4}
        inputs = [self.real(op.inputs[0]), *self.weights(op, weights)]
        self.node("Conv", inputs, result, group=op.groups, **shape)

    def linear(self, op: Op, weights: ConvWeights, result: str) -> None:
        source = op.inputs[0]
        # The integers are flattened, not the real values: a Flatten just before Gemm would keep it in float.
        flat = self.node("Flatten", [f"{source}.q"], f"{op.output}.flat")
        x = self.node("DequantizeLinear", [flat, *self.grids[source]], f"{op.output}.flat.dq")
        self.node("Gemm", [x, *self.weights(op, weights)], result, transB=1)

    def weights(self, op: Op, weights: ConvWeights) -> list[str]:
        """Real weight and bias, each from integers with a scale per output channel."""
        shape = (len(weights.weight), -1) if op.kind == "linear" else weights.weight.shape
        # The accumulator's grid in float32, as the executor has it: another bias scale leaves the layer in float.
        bias_scale = np.float32(self.quants[op.inputs[0]].scale) * weights.scale
        return [
            self.per_channel(f"{op.output}.weight", weights.weight.reshape(shape), weights.scale),
            self.per_channel(f"{op.output}.bias", weights.bias, bias_scale),
        ]

    def per_channel(self, name: str, values: NDArray[np.generic], scale: NDArray[np.float32]) -> str:
        inputs = [
            self.constant(name, values),
            self.constant(f"{name}.scale", scale),
            self.constant(f"{name}.zero_point", np.zeros(len(scale), values.dtype)),
        ]
        return self.node("DequantizeLinear", inputs, f"{name}.dq", axis=0)

    def hard_sigmoid(self, op: Op, result: str) -> None:
        """relu6(x + 3) quantised to 6/256; the same integers read at 1/256 are it divided by 6."""
        name = f"{op.output}.three"
        three = [self.constant(name, np.uint8(3)), *self.grid(name, TensorQuant(1.0, 0))]
        constant = self.node("DequantizeLinear", three, f"{name}.dq")
        self.node("Add", [self.real(op.inputs[0]), constant], result)
        sixfold = self.grid(f"{op.output}.sixfold", TensorQuant(RELU6_SCALE, 0))
        self.node("QuantizeLinear", [result, *sixfold], f"{op.output}.q")
        self.grids[op.output] = self.grid(op.output, TensorQuant(GATE_SCALE, 0))


def to_onnx(
    program: Program, metadata: Mapping[str, str] | None = None, options: FileOptions = PLAIN_FILE
) -> onnx.ModelProto:
    """Write a program as an ONNX model: float input `images` `(N, C, H, W)`, float output `logits`, dynamic N.

    `metadata` is kept in `metadata_props`, and watched tensors come out as integers.
    """
    inside = options.preprocessing if options.preprocessing and options.preprocessing.inside else None
    graph = _Graph(program, inside)
    shapes: dict[str, list[str | int]] = {name: ["batch", *shape] for name, shape in program.shapes().items()}
    name, kind = (INSIDE_NAME, TensorProto.UINT8) if inside else (program.input_name, TensorProto.FLOAT)
    images = helper.make_tensor_value_info(name, kind, shapes[program.input_name])
    logits = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, shapes[program.output_name])
    watched = [helper.make_tensor_value_info(f"{x}.q", TensorProto.UINT8, shapes[x]) for x in options.watch]
    return graph.model(images, [logits, *watched], metadata)


def open_start(model: onnx.ModelProto) -> None:
    """Drop the quantisation of the input: the model takes integers, channels last where they have a height.

    A network converts images once and then keeps integers in the runtime's own layout from block to block; a block
    written as a model of its own would convert its input and output each time, which costs up to a third of it.
    """
    graph = model.graph
    quantize = graph.node.pop(0)
    assert quantize.op_type == "QuantizeLinear"
    name = quantize.output[0]
    count, channels, *sides = _shape(graph.input.pop())
    shape = [count, channels, *sides]
    if max(sides) > 1:
        # The runtime turns this transposition and its own, back again, into nothing.
        outer = f"{name}.channels_last"
        graph.node.insert(0, helper.make_node("Transpose", [outer], [name], perm=(0, 3, 1, 2)))
        name, shape = outer, [count, *sides, channels]
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.UINT8, shape))


def open_end(model: onnx.ModelProto, *, channels_last: bool = True) -> None:
    """Drop the dequantisation of the output: the model returns integers, `channels_last` where they have a height."""
    graph = model.graph
    dequantize = graph.node.pop()
    assert dequantize.op_type == "DequantizeLinear"
    name = dequantize.input[0]
    count, channels, *sides = shape = _shape(graph.output.pop())
    if sides and channels_last:
        outer = f"{name}.channels_last"
        graph.node.append(helper.make_node("Transpose", [name], [outer], perm=(0, 2, 3, 1)))
        name, shape = outer, [count, *sides, channels]
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, shape))


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Sizes for one image."""
    return [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
