"""OpenVINO, which executes ONNX Runtime's files: what it rounds, and what it leaves in float."""

import numpy as np
import onnx
import pytest
from torch import Tensor

from spaceevo.quant.program import Executor, Program
from spaceevo.quant.quantizer import REDUCED_RANGE
from spaceevo.runtimes import machine
from spaceevo.runtimes.openvino import OpenVino
from tests.runtimes.conftest import for_here, narrowed

pytest.importorskip("openvino")
OPENVINO = OpenVino()


def without_second_rounding(file: bytes) -> bytes:
    """The file as it was before branches of sums were rounded twice."""
    model = onnx.load_from_string(file)
    again = [node for node in model.graph.node if ".again." in node.output[0]]
    for node in again:
        model.graph.node.remove(node)
    for node in model.graph.node:
        if node.op_type == "Add":
            node.input[:] = [name.replace(".again.dq", ".dq") for name in node.input]
    assert again
    return bytes(model.SerializeToString())


def steps(program: Program, file: bytes, images: Tensor) -> Tensor:
    """How many steps of the output logits are from the exact executor's."""
    logits = OPENVINO.load(file).logits(images)
    return ((logits - Executor(program)(images)) / program.tensors[program.output_name].scale).round().abs()


def test_sums_are_of_rounded_branches(program: Program, images: Tensor) -> None:
    program = for_here(OPENVINO, program)
    file = OPENVINO.write(program)
    assert (steps(program, file, images) > 0).double().mean() < 0.02
    assert (steps(program, without_second_rounding(file), images) > 0).double().mean() > 0.1


def test_processors_without_vnni_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "is_x86", lambda: True)
    monkeypatch.setattr(machine, "has_vnni", lambda: False)
    assert "16 bits" in OPENVINO.caution()
    assert OPENVINO.caution(REDUCED_RANGE.weight.limit) == ""
    monkeypatch.setattr(machine, "has_vnni", lambda: True)
    assert OPENVINO.caution() == ""


def test_sums_cut_off_at_16_bits_are_what_the_caution_tells(program: Program, images: Tensor) -> None:
    if not OPENVINO.caution():
        pytest.skip("this processor has VNNI: its sums are exact")
    wide = narrowed(program)
    for op in wide.ops:
        if op.weights is not None:
            op.weights.weight[...] = np.where(op.weights.weight < 0, -127, 127)
    assert (steps(wide, OPENVINO.write(wide), images) > 0).double().mean() > 0.1


def test_convolutions_left_in_float_are_found(program: Program) -> None:
    model = onnx.load_from_string(OPENVINO.write(program))
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    quantize = next(node for node in model.graph.node if node.output[0] == "images.q")
    first.input[0] = quantize.input[0]  # reads real images
    found = OPENVINO.float_ops(model.SerializeToString())
    assert len(found) == 1
    assert found[0].startswith("Convolution first_conv")


def test_what_stays_in_float_is_computed_in_fp32(program: Program) -> None:
    precision = OPENVINO.load(OPENVINO.write(program)).single.get_property("INFERENCE_PRECISION_HINT")
    assert precision.to_string() == "f32"  # bf16 by itself, where the processor has that
