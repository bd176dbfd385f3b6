from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from spaceevo.quant.program import Program
from spaceevo.report.latency import draw_operators
from spaceevo.runtimes.base import FileOptions, OperatorTime
from spaceevo.runtimes.litert.layers import SHIFT
from spaceevo.runtimes.litert.operators import operator_files
from spaceevo.runtimes.litert.runtime import LiteRt
from spaceevo.runtimes.onnx.runtime import OnnxRuntime

ONNX = OnnxRuntime()
LITERT = LiteRt()
needs_litert = pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="the extra `tflite` is not installed")


def test_every_operator_is_timed_and_placed(program: Program, tmp_path: Path) -> None:
    file = ONNX.write(program)
    operators, whole_ms = ONNX.profile(file, repeats=3)
    assert whole_ms is None
    assert Counter(op.kind for op in operators) == ONNX.op_counts(file)
    assert all(0 <= op.least_ms < 50 for op in operators)
    stages = {op.stage for op in operators if op.kind == "QLinearConv"}
    assert stages == {"first_conv", "stage0", "stage1", "stage2", "stage3", "final_expand", "feature_mix"}
    draw_operators(tmp_path / "p.png", "digits", [(op.stage, op.kind, op.least_ms) for op in operators])
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@needs_litert
def test_operators_alone_are_all_of_the_file(program: Program) -> None:
    file = LITERT.write(program)
    operators, whole_ms = LITERT.profile(file, repeats=3)
    counts = LITERT.op_counts(file)
    assert counts.pop("PAD") > 0  # timed with the convolutions that read them
    assert Counter(op.kind for op in operators) == counts
    assert whole_ms is not None
    assert whole_ms > 0
    assert operators[0].name == "images"
    assert {"first_conv", "stage1", "final_expand"} <= {op.stage for op in operators}


@needs_litert
def test_operators_alone_compute_what_they_compute_in_the_file(program: Program) -> None:
    images = torch.randn(1, *program.input_shape, generator=torch.Generator().manual_seed(0))
    expected = LITERT.integers(program, images)
    value = images
    to_integers, *convolutions = operator_files(LITERT.write(program, options=FileOptions(packed_channels=1)))[:3]
    for op in (to_integers, *convolutions):
        value = LITERT.load(op.file).logits(value)
    assert torch.equal(value.int() + SHIFT, expected[convolutions[-1].name].int())


def test_stage_of_an_operator() -> None:
    def stage_of(name: str) -> str:
        return OperatorTime(name, "Conv", 1.0).stage

    assert stage_of("stage1.0.expand.real_token_3") == "stage1"
    assert stage_of("feature_mix.0.conv.pre.q") == "feature_mix"
    assert stage_of("images.q") == "other"
    assert stage_of("Transpose") == "other"
