import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from spaceevo.export.onnx import optimized_op_counts, to_onnx
from spaceevo.export.preprocessing import Preprocessing
from spaceevo.export.profile import layer_of, least_ms, profile_onnx, runner
from spaceevo.export.tflite import to_tflite
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
