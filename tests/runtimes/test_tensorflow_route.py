"""TensorFlow's converter as an independent witness; it needs the extra `tensorflow`."""

import sys
from importlib.util import find_spec

import pytest
import torch
from experiments.int8_files.tensorflow_route import to_tflite_by_tensorflow
from torch import Tensor

from spaceevo.errors import MissingExtraError
from spaceevo.export.parity import compare
from spaceevo.quant.program import Program, execute
from spaceevo.runtimes.litert.runtime import LiteRt
from spaceevo.runtimes.litert.writer import to_tflite
from spaceevo.runtimes.random_program import random_block_program
from spaceevo.space.spec import BlockSpec
from tests.runtimes.conftest import irregular, steps_apart

LITERT = LiteRt()

needs_tensorflow = pytest.mark.skipif(find_spec("tensorflow") is None, reason="the extra `tensorflow` is not installed")


@pytest.mark.parametrize(("package", "extra"), [("tensorflow", "tensorflow"), ("ai_edge_litert", "tflite")])
def test_absent_packages_name_their_extra(
    program: Program, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    write = to_tflite_by_tensorflow if package == "tensorflow" else to_tflite
    with pytest.raises(MissingExtraError, match=rf"pip install 'spaceevo\[{extra}\]'"):
        write(program)


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_both_files_compute_the_same(program: Program, images: Tensor) -> None:
    file = to_tflite_by_tensorflow(program)
    assert not LITERT.float_ops(file)
    theirs, ours = LITERT.load(file).logits(images, batch_size=1), LITERT.load(to_tflite(program)).logits(images)
    assert compare(ours, theirs).agreement == 100
    assert compare(ours, theirs).mean_difference < 0.002
    assert (steps_apart(program, execute(program, images), theirs) == 0).double().mean() > 0.95


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "spec",
    [
        BlockSpec("MobileNetV3K3Res", 16, 24, 5, 3.0, 2, "swish"),
        BlockSpec("FusedMBConvSERes", 16, 16, 3, 2.0, 1, "hswish"),
        BlockSpec("ResNetSE", 16, 24, 3, 1.0, 2, "relu"),
        BlockSpec("MobileNetV1Dual", 16, 24, 5, None, 2, "relu"),
    ],
    ids=lambda spec: spec.type,
)
def test_blocks_compute_the_same(spec: BlockSpec) -> None:
    program = irregular(random_block_program(spec, 10))
    images = 1.2 * torch.randn(4, 16, 10, 10)
    file = to_tflite_by_tensorflow(program)
    assert not LITERT.float_ops(file)
    steps = steps_apart(
        program, LITERT.load(to_tflite(program)).logits(images), LITERT.load(file).logits(images, batch_size=1)
    )
    assert (steps == 0).double().mean() >= 0.99
    assert steps.max() <= 2
