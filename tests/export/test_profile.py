import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from spaceevo.export.divergence import tflite_integers
from spaceevo.export.flatbuffer import operator_files
from spaceevo.export.onnx import optimized_op_counts, to_onnx
from spaceevo.export.parity import tflite_interpreter
from spaceevo.export.preprocessing import Preprocessing
from spaceevo.export.profile import layer_of, least_ms, profile_onnx, profile_tflite, runner
from spaceevo.export.tflite import tflite_op_counts, to_tflite
from spaceevo.export.tflite_layers import SHIFT
from spaceevo.quant.program import Program
from spaceevo.report.operators import draw_operators


def test_every_operator_is_timed_and_placed(program: Program, tmp_path: Path) -> None:
    model = to_onnx(program).SerializeToString()
    operators = profile_onnx(model, runs=3)
    counts = optimized_op_counts(model)
    assert {kind: sum(op.kind == kind for op in operators) for kind in counts} == counts
    assert all(0 <= op.least_ms < 50 for op in operators)
    stages = {layer_of(op.name) for op in operators if op.kind == "QLinearConv"}
    assert stages == {"first_conv", "stage0", "stage1", "stage2", "stage3", "final_expand", "feature_mix"}
    draw_operators(tmp_path / "p.png", "digits", [(layer_of(op.name), op.kind, op.least_ms) for op in operators])
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not find_spec("ai_edge_litert"), reason="needs the extra tflite")
def test_operators_alone_add_up_to_the_file(program: Program) -> None:
    file = to_tflite(program)
    operators, whole_ms = profile_tflite(file)
    counts = tflite_op_counts(file)
    assert counts.pop("PAD") > 0  # timed with the convolutions that read them
    assert Counter(op.kind for op in operators) == counts
    assert 0.5 < sum(op.least_ms for op in operators) / whole_ms < 2
    assert operators[0].name == "images"
    assert {"first_conv", "stage1", "final_expand"} <= {layer_of(op.name) for op in operators}


@pytest.mark.skipif(not find_spec("ai_edge_litert"), reason="needs the extra tflite")
def test_operators_alone_compute_what_they_compute_in_the_file(program: Program) -> None:
    images = torch.randn(1, *program.input_shape, generator=torch.Generator().manual_seed(0))
    expected = tflite_integers(program, images)
    value = images.numpy().transpose(0, 2, 3, 1)
    to_integers, *convolutions = operator_files(to_tflite(program, packed_channels=1))[:3]
    for op in (to_integers, *convolutions):
        interpreter = tflite_interpreter(op.file)
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], value)
        interpreter.invoke()
        value = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    integers = expected[convolutions[-1].name].numpy().transpose(0, 2, 3, 1)
    assert (value.astype(int) + SHIFT == integers).all()


def test_stage_of_an_operator() -> None:
    assert layer_of("stage1.0.expand.real_token_3") == "stage1"
    assert layer_of("feature_mix.0.conv.pre.q") == "feature_mix"
    assert layer_of("images.q") == "other"
    assert layer_of("Transpose") == "other"


def test_runners_run_files_that_take_pixels_too(program: Program) -> None:
    inside = Preprocessing((0.5,) * 3, (0.25,) * 3, 24, 24, inside=True)
    files = {"onnx": to_onnx(program, preprocessing=inside).SerializeToString()}
    if find_spec("ai_edge_litert"):
        files["tflite"] = to_tflite(program, preprocessing=inside)
    found = least_ms({form: runner(file, form) for form, file in files.items()}, repeats=3)
    assert found.keys() == files.keys()
    assert all(0 < ms < 100 for ms in found.values())


def test_least_time_tells_slow_from_fast() -> None:
    def busy(ms: float) -> None:
        end = time.thread_time() + ms / 1e3
        while time.thread_time() < end:
            pass

    found = least_ms({"slow": lambda: busy(4), "fast": lambda: busy(1)}, repeats=5)
    assert found["slow"] / found["fast"] == pytest.approx(4, rel=0.2)
