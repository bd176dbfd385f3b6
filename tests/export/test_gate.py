"""The gate: what passes, what is told where it does not."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from spaceevo.errors import ConfigError, ExportError
from spaceevo.export.gate import Gate, asked_formats
from spaceevo.export.parity import Tolerance, divergences, first_divergence, network_integers
from spaceevo.nn.supernet import Network
from spaceevo.quant.program import ConvWeights, Executor, Program
from spaceevo.runtimes.onnx.runtime import OnnxRuntime
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.runtimes.registry import runtime_named
from tests.runtimes.conftest import for_here

ONNX = OnnxRuntime()

needs_litert = pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="the extra `tflite` is not installed")
FORMATS = ["onnx", pytest.param("tflite", marks=needs_litert)]


@pytest.fixture(scope="module")
def batches(images: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(images, images.flatten(1).sum(1).long() % 10)]


@pytest.fixture(scope="module")
def wrong(program: Program) -> Program:
    """The program with one layer's weights turned round."""
    ops = list(program.ops)
    index = next(i for i, op in enumerate(ops) if op.output == "stage2.0.depthwise.pre")
    weights = ops[index].weights
    assert weights is not None
    turned = ConvWeights(np.ascontiguousarray(weights.weight[..., ::-1]), weights.scale, weights.bias)
    ops[index] = replace(ops[index], weights=turned)
    return replace(program, ops=ops)


@pytest.mark.parametrize("format", FORMATS)
def test_true_files_pass(network: Network, program: Program, batches: list[tuple[Tensor, Tensor]], format: str) -> None:
    gate = Gate(network, program, batches)
    figures: dict[str, Any] = dict(gate.check(format, Tolerance(98, 0.1)))
    assert figures[f"{format}_folded_agreement"] == 100
    assert figures[f"{format}_parity"] == "agrees on 64 of 64"
    assert figures[f"{format}_near_ties"] == 0
    assert figures[f"{format}_folded_mean_difference_std"] < 0.005
    assert figures[f"{format}_bit_equal"] > 98
    assert figures[f"{format}_float_layers"] == 0
    assert f"exact/{format} nowhere" in figures[f"{format}_first_divergence"]
    assert sum(figures[f"{format}_op_counts"].values()) > len(program.ops)
    gate.check_pixels(format, Preprocessing((0.5,) * 3, (0.25,) * 3, 24, 24, inside=True))


def test_a_wrong_program_is_refused_and_the_layer_named(
    network: Network, wrong: Program, batches: list[tuple[Tensor, Tensor]]
) -> None:
    gate = Gate(network, wrong, batches)
    with pytest.raises(ExportError, match=r"not the trained network: .*at stage2.0.depthwise.*no file was written"):
        gate.check("onnx", Tolerance(100, 0.001))


def test_what_must_fail_fails_with_the_first_images(network: Network, wrong: Program, images: Tensor) -> None:
    gate = Gate(network, wrong, [(images, images.flatten(1).sum(1).long() % 10)] * 4)
    assert len(gate.first) == 64
    with pytest.raises(ExportError, match=r"file, by its first images, is not .* agrees on \d+ of 64, 0 may differ"):
        gate.check("onnx", Tolerance(100, 0.001))
    assert not {"trained", "exact", "folded"} & vars(gate).keys()  # none was computed for all images


def test_first_divergence_names_the_tensor(program: Program, wrong: Program, images: Tensor) -> None:
    right, other = Executor(program).integers(images[:8]), ONNX.integers(wrong, images[:8])
    found = first_divergence(program, right, other)
    assert found is not None
    assert found.tensor == "stage2.0.depthwise.pre"
    assert found.share > 20
    assert first_divergence(program, right, ONNX.integers(program, images[:8])) is None
    assert first_divergence(program, right, ONNX.integers(program, images[:8], "unoptimized")) is None


def test_the_networks_layers_are_the_programs_tensors(network: Network, program: Program, images: Tensor) -> None:
    integers = network_integers(network, program, images[:8])
    assert len(integers) > 0.5 * len(program.tensors)
    assert program.output_name in integers
    found = divergences(program, integers, Executor(program).integers(images[:8]))
    assert all(one.share < 15 for one in found)


def test_formats() -> None:
    assert asked_formats("tflite") == ["tflite"]
    assert asked_formats(["onnx", "tflite"]) == ["onnx", "tflite"]
    for wrong in ("coreml", [], ["onnx", "pb"]):
        with pytest.raises(ConfigError, match="format = .*; allowed: onnx, tflite, or a list of them"):
            asked_formats(wrong)


def test_another_runtime_of_a_format_passes_the_gate_by_its_own_name(
    network: Network, program: Program, batches: list[tuple[Tensor, Tensor]]
) -> None:
    pytest.importorskip("openvino")
    openvino = runtime_named("openvino")
    # The exact executor stands for the network, since here the program may have to be another.
    gate = Gate(network, for_here(openvino, program), batches, is_trained=False)
    figures = gate.check("onnx", Tolerance(98, 0.02), runtime=openvino)
    assert float(str(figures["openvino_bit_equal"])) > 95
    assert figures["openvino_float_layers"] == 0
    assert "exact/openvino nowhere" in str(figures["openvino_first_divergence"])
    assert not any(name.startswith("onnx") for name in figures)


def test_the_gate_tells_why_a_runtime_computes_something_else(
    network: Network, program: Program, batches: list[tuple[Tensor, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = OnnxRuntime()
    monkeypatch.setattr(onnx, "caution", lambda largest_weight: "sums are cut off")
    with pytest.raises(ExportError, match=r"the onnx file in onnxruntime.*is not.*sums are cut off"):
        Gate(network, program, batches).check("onnx", Tolerance(100, 0), runtime=onnx)
