from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

import spaceevo
from spaceevo.export.parity import compare
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.program import Program, execute
from spaceevo.runtimes.onnx import runtime
from spaceevo.runtimes.onnx.runtime import OnnxRuntime
from spaceevo.runtimes.onnx.writer import to_onnx
from spaceevo.runtimes.random_program import random_block_program
from spaceevo.space.spec import BlockSpec
from tests.runtimes.conftest import narrowed, steps_apart

ONNX = OnnxRuntime()

INTEGER_OPS = {
    "QLinearConv",
    "QGemm",
    "QLinearAdd",
    "QLinearMul",
    "QLinearGlobalAveragePool",
    "QLinearSigmoid",
    "Flatten",
    "Transpose",
    "QuantizeLinear",
    "DequantizeLinear",
}


def test_network_computes_what_was_trained(network: Network, program: Program, images: Tensor) -> None:
    model = ONNX.write(program)
    with torch.no_grad():
        trained = network(images)
    exact, runtime = execute(program, images), ONNX.load(model).logits(images)
    assert compare(exact, runtime).agreement == 100
    assert steps_apart(program, exact, runtime).max() <= 1
    assert compare(trained, runtime).mean_difference < 0.02
    assert not ONNX.float_ops(model)
    plain = ONNX.load(model, "unoptimized").logits(images)
    assert compare(exact, plain).agreement == 100


def test_model_is_valid_and_says_what_it_is(program: Program) -> None:
    model = to_onnx(program, {"space": "digits-012-000"})
    onnx.checker.check_model(model, full_check=True)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"space": "digits-012-000"}
    assert model.producer_name == "spaceevo"
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, logits.name) == ("images", "logits")
    shapes = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in (images, logits)]
    assert shapes == [["batch", 3, 24, 24], ["batch", 10]]


def test_every_tensor_is_quantised_once_but_for_branches_of_sums(program: Program) -> None:
    counts = Counter(node.op_type for node in to_onnx(program).graph.node)
    convolved = {op.output for op in program.ops if op.kind == "conv"}
    branches = [name for op in program.ops if op.kind == "add" for name in op.inputs if name in convolved]
    assert len(branches) == 6
    assert counts["QuantizeLinear"] == len(program.tensors) + len(branches)
    assert not {"Relu", "Clip", "HardSigmoid"} & counts.keys()


def test_the_second_rounding_of_branches_costs_nothing(program: Program) -> None:
    executed = ONNX.op_counts(to_onnx(program).SerializeToString())
    assert executed["QuantizeLinear"] == executed["DequantizeLinear"] == 1
    assert executed["QLinearAdd"] == sum(op.kind in ("add", "hard_sigmoid") for op in program.ops)


def test_block_output_shape() -> None:
    program = random_block_program(BlockSpec("MobileNetV3Res", 8, 16, 5, 3, 2, "hswish"), 9)
    model = to_onnx(program)
    onnx.checker.check_model(model, full_check=True)
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [0, 16, 5, 5]


def test_layers_left_in_float_are_found(program: Program) -> None:
    model = to_onnx(program)
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "first_conv.0.conv.bias.scale")
    scale.raw_data = (2 * np.frombuffer(scale.raw_data, np.float32)).tobytes()
    assert len([n for n in ONNX.float_ops(model.SerializeToString()) if "Conv" in n.split()[0]]) == 1


@pytest.mark.slow
def test_full_size_network_runs_in_integers() -> None:
    supernet = Supernet(spaceevo.parse_space("onnxw-151122-023231")).eval()
    spec = supernet.member.smallest
    supernet.activate(spec)
    spaceevo.set_quant(supernet, True)
    images = torch.randn(4, 3, 160, 160)
    with torch.no_grad():
        supernet(images)
    program = to_program(supernet.extract(spec), (3, 160, 160))
    model = to_onnx(program).SerializeToString()
    assert set(ONNX.op_counts(model)) <= INTEGER_OPS
    assert compare(execute(program, images), ONNX.load(model).logits(images)).mean_difference < 0.02


def test_sums_do_not_saturate() -> None:
    """255·127·2 leaves 16 bits; processors without VNNI need another kernel, which the session has to ask for."""
    channels = 64
    arrays = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "w": np.full((8, channels, 1, 1), 127, np.int8),
        "ws": np.ones(8, np.float32),
        "wz": np.zeros(8, np.int8),
        "ys": np.float32(channels * 127),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("QLinearConv", ["q", "one", "zero", "w", "ws", "wz", "ys", "zero"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 4, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 8, 4, 4])]
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    y = OnnxRuntime().load(model.SerializeToString()).logits(torch.full((1, channels, 4, 4), 255.0))
    assert (y == 255).all()


def test_fast_kernels_are_asked_for_where_they_are_exact(
    program: Program, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_session_config_entry(self, name: str, value: str) -> None:
            asked.append(name)
            super().add_session_config_entry(name, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    monkeypatch.setattr(runtime, "adds_exactly", lambda weight: weight <= 64)
    ONNX.load(ONNX.write(program))
    assert asked == ["session.x64quantprecision"]
    narrow = narrowed(program)
    assert ONNX.largest_weight(ONNX.write(narrow)) == narrow.largest_weight <= 64 < program.largest_weight
    logits = ONNX.load(ONNX.write(narrow)).logits(images)
    assert asked == ["session.x64quantprecision"]
    exact = execute(narrow, images)
    assert compare(exact, logits).agreement == 100
    assert steps_apart(narrow, exact, logits).max() <= 1
