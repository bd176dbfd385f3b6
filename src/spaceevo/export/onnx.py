"""Integer program → ONNX: QDQ form with int8 weights, every number as the program has it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from spaceevo.artifacts import atomic_path
from spaceevo.errors import ExportError
from spaceevo.quant.program import ConvWeights, Op, Program, TensorQuant
from spaceevo.quant.quantizer import GATE_SCALE, RELU6_SCALE

OPSET = 17
IR_VERSION = 9
INTEGER_OPS = frozenset({"QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
FLOAT_OPS = frozenset({"Conv", "Gemm", "MatMul", "FusedConv", "FusedGemm", "NhwcFusedConv"})


class _Graph:
    """Nodes and initialisers under construction; each uint8 tensor has one Q and one DQ, shared by all readers."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        if name not in self.initializers:
            kind = helper.np_dtype_to_tensor_dtype(values.dtype)
            raw = np.ascontiguousarray(values).tobytes()
            self.initializers[name] = helper.make_tensor(name, kind, values.shape, raw, raw=True)
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _parameters(self, quant: TensorQuant) -> list[str]:
        suffix = f"{np.float32(quant.scale).view(np.uint32):08x}_{quant.zero_point}"
        return [
            self.constant(f"scale_{suffix}", np.float32(quant.scale)),
            self.constant(f"zero_point_{suffix}", np.uint8(quant.zero_point)),
        ]

    def quantize(self, real: str, tensor: str, quant: TensorQuant) -> str:
        return self.node("QuantizeLinear", [real, *self._parameters(quant)], f"{tensor}.q")

    def dequantize(self, integers: str, tensor: str, quant: TensorQuant) -> str:
        return self.node("DequantizeLinear", [integers, *self._parameters(quant)], f"{tensor}.dq")

    def settle(self, real: str, tensor: str) -> None:
        """Quantise a result and give its readers the grid's values."""
        quant = self.program.tensors[tensor]
        self.dequantize(self.quantize(real, tensor, quant), tensor, quant)

    def weights(self, name: str, weights: ConvWeights, input_scale: float, flat: bool) -> list[str]:
        weight = weights.weight.reshape(len(weights.weight), -1) if flat else weights.weight
        grid = np.float32(input_scale) * weights.scale
        return [
            self.node(
                "DequantizeLinear",
                [
                    self.constant(f"{name}.weight", weight),
                    self.constant(f"{name}.weight_scale", weights.scale),
                    self.constant(f"{name}.weight_zero_point", np.zeros(len(weight), np.int8)),
                ],
                f"{name}.weight.dq",
                axis=0,
            ),
            self.node(
                "DequantizeLinear",
                [
                    self.constant(f"{name}.bias", weights.bias),
                    self.constant(f"{name}.bias_scale", grid.astype(np.float32)),
                    self.constant(f"{name}.bias_zero_point", np.zeros(len(weight), np.int32)),
                ],
                f"{name}.bias.dq",
                axis=0,
            ),
        ]

    def conv(self, op: Op) -> str:
        assert op.weights is not None
        kernel = op.weights.weight.shape[-1]
        inputs = [f"{op.inputs[0]}.dq", *self.weights(op.output, op.weights, self.scale(op.inputs[0]), flat=False)]
        return self.node(
            "Conv",
            inputs,
            f"{op.output}.real",
            kernel_shape=[kernel, kernel],
            strides=[op.stride] * 2,
            pads=[kernel // 2] * 4,
            group=op.groups,
        )

    def linear(self, op: Op) -> str:
        assert op.weights is not None
        source = op.inputs[0]
        quant = self.program.tensors[source]
        # The integers are flattened, not the values: a Flatten between DQ and Gemm would keep the Gemm in float.
        integers = f"{source}.q"
        flat = self.dequantize(self.node("Flatten", [integers], f"{op.output}.flat"), f"{op.output}.flat", quant)
        inputs = [flat, *self.weights(op.output, op.weights, quant.scale, flat=True)]
        return self.node("Gemm", inputs, f"{op.output}.real", transB=1)

    def hard_sigmoid(self, op: Op) -> None:
        """relu6(x + 3) on the grid 6/256; its integers read on the grid 1/256 are the gate."""
        three = TensorQuant(1.0, 0)
        constant = self.dequantize(self.constant("three", np.array(3, np.uint8)), f"{op.output}.three", three)
        raised = self.node("Add", [f"{op.inputs[0]}.dq", constant], f"{op.output}.real")
        integers = self.quantize(raised, op.output, TensorQuant(RELU6_SCALE, 0))
        self.dequantize(integers, op.output, TensorQuant(GATE_SCALE, 0))

    def scale(self, tensor: str) -> float:
        return self.program.tensors[tensor].scale

    def add(self, op: Op) -> None:
        if op.kind == "hard_sigmoid":
            self.hard_sigmoid(op)
            return
        if op.kind in ("conv", "linear"):
            real = self.conv(op) if op.kind == "conv" else self.linear(op)
        else:
            kind = {"add": "Add", "mul": "Mul", "mean": "GlobalAveragePool", "sigmoid": "Sigmoid"}[op.kind]
            real = self.node(kind, [f"{name}.dq" for name in op.inputs], f"{op.output}.real")
        self.settle(real, op.output)


def to_onnx(program: Program, metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """Write a program as an ONNX model: float input `(N, C, H, W)`, float output, dynamic batch.

    Saturation to 0…255 does what relu, relu6 and the gates' clips do; the model has no such nodes.
    """
    graph = _Graph(program)
    graph.settle(program.input_name, program.input_name)
    for op in program.ops:
        graph.add(op)
    output = graph.nodes[-1].output[0]
    shape: list[int | str] = ["batch", *program.input_shape]
    proto = helper.make_graph(
        graph.nodes,
        "spaceevo",
        [helper.make_tensor_value_info(program.input_name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        list(graph.initializers.values()),
    )
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="spaceevo"
    )
    helper.set_model_props(model, dict(metadata or {}))
    return model


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model atomically.

    Raises:
        ExportError: the folder cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(model.SerializeToString())
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror}; choose a folder you may write to (paths.output)") from error


def optimized_op_counts(model: bytes) -> dict[str, int]:
    """Operators of the graph that ONNX Runtime makes of a model on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(file)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(str(file)).graph
    counts: dict[str, int] = {}
    for node in graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def float_leftovers(counts: Mapping[str, int]) -> dict[str, int]:
    """Convolutions and linear layers that stayed in float."""
    return {kind: count for kind, count in counts.items() if kind in FLOAT_OPS}
