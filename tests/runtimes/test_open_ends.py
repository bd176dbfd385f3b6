import numpy as np
import pytest
import torch

from spaceevo.quant.program import execute
from spaceevo.runtimes.onnx.runtime import OnnxRuntime, OnnxSession
from spaceevo.runtimes.onnx.writer import open_end, open_start, to_onnx
from spaceevo.runtimes.random_program import random_block_program
from spaceevo.space.spec import BlockSpec


@pytest.mark.parametrize(
    ("spec", "hw"),
    [
        (BlockSpec("MobileNetV3Res", 8, 16, 5, 3, 2, "hswish"), 9),
        (BlockSpec("ResNet", 16, 16, 3, 1.0, 1, "relu"), 6),
        (BlockSpec("FeatureMix", 16, 24, 1, None, 1, "hswish"), 5),
        (BlockSpec("Logits", 16, 10, 1, None, 1, "none"), 1),
    ],
)
def test_a_block_with_integer_ends_computes_the_same(spec: BlockSpec, hw: int) -> None:
    program = random_block_program(spec, hw)
    model = to_onnx(program)
    open_start(model)
    open_end(model)
    session = OnnxSession(model.SerializeToString()).session
    quant = program.tensors[program.input_name]
    integers = np.random.default_rng(0).integers(0, 256, (1, spec.cin, hw, hw), np.uint8)
    real = torch.from_numpy((integers.astype(np.float32) - quant.zero_point) * np.float32(quant.scale))
    feed = integers if hw == 1 else integers.transpose(0, 2, 3, 1)
    assert session.get_inputs()[0].type == "tensor(uint8)"
    (found,) = session.run(None, {session.get_inputs()[0].name: feed})
    if found.ndim == 4:
        found = found.transpose(0, 3, 1, 2)
    output = program.tensors[program.output_name]
    expected = execute(program, real).numpy() / np.float32(output.scale) + output.zero_point
    assert np.abs(found.astype(int) - np.round(expected)).max() <= 1


def test_nothing_is_transposed_in_the_runtime() -> None:
    model = to_onnx(random_block_program(BlockSpec("ResNet", 16, 16, 3, 1.0, 1, "relu"), 6))
    open_start(model)
    open_end(model)
    assert OnnxRuntime().op_counts(model.SerializeToString()).keys() == {"QLinearConv", "QLinearAdd"}
