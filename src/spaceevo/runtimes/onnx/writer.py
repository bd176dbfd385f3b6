"""Writes integer programs as ONNX: QDQ form, every number as the program has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from spaceevo.quant.program import ConvWeights, Op, Program, TensorQuant
from spaceevo.quant.quantizer import GATE_SCALE, RELU6_SCALE
from spaceevo.runtimes.base import OUTPUT_NAME
from spaceevo.runtimes.preprocessing import INSIDE_NAME, Preprocessing

OPSET = 17
"""Every operator needed is in it, and ONNX Runtime has fused its Q/DQ pairs since 1.13."""
IR_VERSION = 9
_REAL_OPS = {"add": "Add", "mul": "Mul", "mean": "GlobalAveragePool", "sigmoid": "Sigmoid"}


class _Graph:
    """Nodes and initialisers under construction.

    Tensor `t` of the program is written as its integers `t.q` and their real values `t.dq`, once for all its readers:
    with a pair for each reader, sums would stay in float.
    """

    def __init__(self, program: Program, preprocessing: Preprocessing | None) -> None:
        self.quants = program.tensors
        self.output = program.output_name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.grids: dict[str, list[str]] = {}
        self.reals: dict[str, str] = {}
        images = program.input_name
        self.settle(images if preprocessing is None else self.normalize(preprocessing), images)
        for op in program.ops:
            self.add(op)
        self.real(self.output)

    def constant(self, name: str, values: NDArray[np.generic] | np.generic) -> str:
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        self.initializers.append(helper.make_tensor(name, kind, values.shape, values.tobytes(), raw=True))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: int | list[int]) -> str:
        node = helper.make_node(kind, inputs, [output], name=output)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        return output

    def grid(self, name: str, quant: TensorQuant) -> list[str]:
        """Write scale and zero point of activations; return their names."""
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

    def normalize(self, preprocessing: Preprocessing) -> str:
        """Real values of pixels, normalised in float."""
        gain, shift = (
            self.constant(f"{INSIDE_NAME}.{name}", values.reshape(1, -1, 1, 1))
            for name, values in zip(("gain", "shift"), preprocessing.factors(), strict=True)
        )
        real = self.node("Cast", [INSIDE_NAME], f"{INSIDE_NAME}.real", to=TensorProto.FLOAT)
        return self.node(
            "Add", [self.node("Mul", [real, gain], f"{INSIDE_NAME}.scaled"), shift], f"{INSIDE_NAME}.normalized"
        )

    def add(self, op: Op) -> None:
        result = f"{op.output}.real"
        if op.kind == "hard_sigmoid":
            self.hard_sigmoid(op, result)
            return
        if op.kind == "conv":
            self.conv(op, result)
        elif op.kind == "linear":
            self.linear(op, result)
        else:
            self.node(_REAL_OPS[op.kind], [self.real(name) for name in op.inputs], result)
        self.settle(result, op.output)

    def conv(self, op: Op, result: str) -> None:
        assert op.weights is not None
        kernel = op.weights.weight.shape[-1]
        self.node(
            "Conv",
            [self.real(op.inputs[0]), *self.weights(op, op.weights)],
            result,
            kernel_shape=[kernel] * 2,
            strides=[op.stride] * 2,
            pads=[kernel // 2] * 4,
            group=op.groups,
        )

    def linear(self, op: Op, result: str) -> None:
        assert op.weights is not None
        source = op.inputs[0]
        # The integers are flattened, not the real values: a Flatten just before Gemm would keep it in float.
        flat = self.node("Flatten", [f"{source}.q"], f"{op.output}.flat")
        x = self.node("DequantizeLinear", [flat, *self.grids[source]], f"{op.output}.flat.dq")
        self.node("Gemm", [x, *self.weights(op, op.weights)], result, transB=1)

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
    program: Program,
    metadata: Mapping[str, str] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    watch: Sequence[str] = (),
) -> onnx.ModelProto:
    """Write a program as an ONNX model: float input `images` `(N, C, H, W)`, float output `logits`, dynamic N.

    Arguments as `Runtime.write`; `metadata` is kept in `metadata_props`, and watched tensors come out as integers.
    """
    inside = preprocessing if preprocessing is not None and preprocessing.inside else None
    graph, shapes = _Graph(program, inside), program.shapes()
    name, kind = (program.input_name, TensorProto.FLOAT) if inside is None else (INSIDE_NAME, TensorProto.UINT8)
    images = helper.make_tensor_value_info(name, kind, ["batch", *program.input_shape])
    logits = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", *shapes[program.output_name]])
    watched = [helper.make_tensor_value_info(f"{x}.q", TensorProto.UINT8, ["batch", *shapes[x]]) for x in watch]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "spaceevo", [images], [logits, *watched], graph.initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="spaceevo",
        producer_version=version("spaceevo"),
    )
    helper.set_model_props(model, dict(metadata or {}))
    return model
