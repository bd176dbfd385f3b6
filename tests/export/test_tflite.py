from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("ai_edge_litert", reason="the extra `tflite` is not installed")

from spaceevo.export.flatbuffer import read_metadata, read_model
from spaceevo.export.float_tflite import to_float_tflite
from spaceevo.export.parity import compare, run_tflite, run_tflite_outputs
from spaceevo.export.plain import to_plain
from spaceevo.export.tflite import tflite_float_ops, tflite_op_counts, to_tflite
from spaceevo.export.tflite_layers import pads_as_same
from spaceevo.latency.blocks import random_block_program
from spaceevo.nn.block import Block
from spaceevo.nn.stage import Stage
from spaceevo.nn.supernet import Network
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.program import Program, execute
from spaceevo.quant.quantizer import DEPLOY
from spaceevo.space.blocks import block_types
from spaceevo.space.spec import BlockSpec
from tests.export.conftest import RANGED, irregular, steps_apart
from tests.nn.conftest import ACTS, SEARCHED


@pytest.mark.slow
@pytest.mark.parametrize(("stride", "hw"), [(1, 9), (2, 9), (2, 10)])
@pytest.mark.parametrize("name", block_types())
def test_blocks_run_as_the_executor_says(name: str, stride: int, hw: int) -> None:
    cout, hw = 16 if stride == 1 else 24, 1 if name == "Logits" else hw
    for act, (kernel, expand) in product(RANGED, ((3, 1.0), (5, 3.0))):
        ratio = expand if block_types()[name].has_expand else None
        program = irregular(random_block_program(BlockSpec(name, 16, cout, kernel, ratio, stride, act), hw))
        file = to_tflite(program)
        assert not tflite_float_ops(file)
        images = 1.2 * torch.randn(4, 16, hw, hw)
        steps = steps_apart(program, execute(program, images), run_tflite(file, images))
        assert (steps == 0).double().mean() >= 0.99
        assert steps.max() <= 2


def test_network_computes_what_was_trained(network: Network, program: Program, images: Tensor) -> None:
    file = to_tflite(program)
    with torch.no_grad():
        trained = network(images)
    exact, runtime = execute(program, images), run_tflite(file, images)
    assert (steps_apart(program, exact, runtime) == 0).double().mean() > 0.98
    assert steps_apart(program, exact, runtime).max() <= 1
    assert compare(exact, runtime).agreement == 100
    assert compare(trained, runtime).mean_difference < 0.02
    torch.testing.assert_close(run_tflite(file, images, batch_size=5), runtime, rtol=0, atol=0)


@pytest.mark.parametrize("packed_channels", [8, 64])
def test_packed_files_compute_the_same_integers(program: Program, images: Tensor, packed_channels: int) -> None:
    plain, packed = (to_tflite(program, packed_channels=channels) for channels in (1, packed_channels))
    assert tflite_op_counts(packed)["RESHAPE"] >= 2
    assert "RESHAPE" not in tflite_op_counts(plain)
    assert not tflite_float_ops(packed)
    torch.testing.assert_close(run_tflite(packed, images), run_tflite(plain, images), rtol=0, atol=0)
    assert len(packed) < len(plain) + 300_000


def test_file_is_int8_inside_and_small(program: Program) -> None:
    file = to_tflite(program, {"space": "digits-012-000"}, packed_channels=1)
    counts, shapes = tflite_op_counts(file), program.shapes()
    vectors = sum(op.weights is not None and shapes[op.inputs[0]][1:] in ((), (1, 1)) for op in program.ops)
    assert (counts["QUANTIZE"], counts["DEQUANTIZE"], counts["FULLY_CONNECTED"]) == (1, 1, vectors)
    assert not tflite_float_ops(file)
    assert read_metadata(file) == {"space": "digits-012-000"}
    assert read_model(file).description.startswith(b"spaceevo")
    integers = sum(op.weights.weight.size + 8 * len(op.weights.bias) for op in program.ops if op.weights)
    assert integers < len(file) < integers + 60_000


def test_watched_tensors_come_out_too(program: Program, images: Tensor) -> None:
    middle = program.ops[len(program.ops) // 2].output
    logits, values = run_tflite_outputs(to_tflite(program, watch=[middle]), images)
    torch.testing.assert_close(logits, run_tflite(to_tflite(program), images), rtol=0, atol=0)
    assert tuple(values.shape[1:]) == program.shapes()[middle]
    quant = program.tensors[middle]
    levels = values.double() / quant.scale + quant.zero_point
    assert (levels - levels.round()).abs().max() < 1e-3


def test_padding_of_the_runtime_is_ours_only_where_symmetric() -> None:
    assert all(pads_as_same(size, kernel, 1) for size in (7, 8) for kernel in (1, 3, 5, 7))
    assert pads_as_same(9, 3, 2)
    assert not pads_as_same(10, 3, 2)
    assert pads_as_same(10, 1, 2)


def test_fp32_file_equals_the_network(network: Network, images: Tensor) -> None:
    set_quant(network, False)
    try:
        with torch.no_grad():
            reference = network(images)
    finally:
        set_quant(network, True)
    file = to_float_tflite(to_plain(network))
    torch.testing.assert_close(run_tflite(file, images), reference, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHED)
def test_fp32_files_of_every_block_type(name: str, randomize: Callable[[nn.Module], nn.Module]) -> None:
    block = Block(
        [BlockSpec(name, 16, 24, 5, 1.0 if block_types()[name].has_expand else None, 2, ACTS.get(name, "swish"))],
        DEPLOY,
    )
    randomize(block.eval())
    network = Network({"body": Stage([block])}, 10, None).eval()
    images = torch.randn(3, 16, 10, 10)
    with torch.no_grad():
        reference = network.stages["body"](images)
    torch.testing.assert_close(run_tflite(to_float_tflite(to_plain(network), 16), images), reference, rtol=0, atol=1e-3)
