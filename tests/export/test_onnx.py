import time
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

import spaceevo
from spaceevo.errors import ExportError
from spaceevo.export.onnx import WeightType, float_nodes, optimized_op_counts, save_onnx, to_onnx
from spaceevo.export.parity import compare, run_onnx
from spaceevo.latency.blocks import random_block_program
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.program import Program, execute
from spaceevo.space.blocks import block_types
from spaceevo.space.spec import BlockSpec
from tests.export.conftest import RANGED, irregular, steps_apart

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


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", block_types())
def test_blocks_run_in_integers_as_the_executor_says(name: str, stride: int) -> None:
    cout, hw = 16 if stride == 1 else 24, 1 if name == "Logits" else 9
    for act, (kernel, expand) in product(RANGED, ((3, 1.0), (5, 3.0))):
        ratio = expand if block_types()[name].has_expand else None
        program = irregular(random_block_program(BlockSpec(name, 16, cout, kernel, ratio, stride, act), hw))
        model = to_onnx(program).SerializeToString()
        assert set(optimized_op_counts(model)) <= INTEGER_OPS
        images = 1.2 * torch.randn(4, 16, hw, hw)
        steps = steps_apart(program, execute(program, images), run_onnx(model, images))
        assert (steps == 0).double().mean() >= 0.98
        # A sum within float32 rounding of half-way may come out one apart, and the layers after it may double that.
        assert (steps <= 1).double().mean() >= 0.999
        assert steps.max() <= 2


@pytest.mark.parametrize("weight_type", ["int8", "uint8"])
def test_network_computes_what_was_trained(
    network: Network, program: Program, images: Tensor, weight_type: WeightType
) -> None:
    model = to_onnx(program, weight_type=weight_type).SerializeToString()
    with torch.no_grad():
        trained = network(images)
    exact, runtime = execute(program, images), run_onnx(model, images)
    assert compare(exact, runtime).agreement == 100
    assert steps_apart(program, exact, runtime).max() <= 1
    assert compare(trained, runtime).mean_difference < 0.02
    assert not float_nodes(model)
    plain = run_onnx(model, images, optimize=False)
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


def test_every_tensor_is_quantised_once(program: Program) -> None:
    counts = Counter(node.op_type for node in to_onnx(program).graph.node)
    assert counts["QuantizeLinear"] == len(program.tensors)
    assert not {"Relu", "Clip", "HardSigmoid"} & counts.keys()


def test_block_output_shape() -> None:
    program = random_block_program(BlockSpec("MobileNetV3Res", 8, 16, 5, 3, 2, "hswish"), 9)
    model = to_onnx(program)
    onnx.checker.check_model(model, full_check=True)
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [0, 16, 5, 5]


def test_layers_left_in_float_are_found(program: Program) -> None:
    model = to_onnx(program)
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "first_conv.0.conv.bias.scale")
    scale.raw_data = (2 * np.frombuffer(scale.raw_data, np.float32)).tobytes()
    assert len([n for n in float_nodes(model.SerializeToString()) if "Conv" in n.split()[0]]) == 1


def test_saving(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "new" / "subnet.onnx"
    save_onnx(to_onnx(program), path)
    assert optimized_op_counts(path)["QGemm"] == 1
    with pytest.raises(ExportError, match=r"subnet.onnx/x.onnx .*set paths.output"):
        save_onnx(to_onnx(program), path / "x.onnx")


def test_building_is_quick() -> None:
    program = random_block_program(BlockSpec("MobileNetV3Res", 64, 64, 5, 6, 1, "swish"), 14)
    seconds = []
    for _ in range(5):
        started = time.process_time()
        to_onnx(program).SerializeToString()
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.01


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
    assert set(optimized_op_counts(model)) <= INTEGER_OPS
    assert compare(execute(program, images), run_onnx(model, images)).mean_difference < 0.02
