import pytest
import torch
from torch import Tensor

pytest.importorskip("ai_edge_litert", reason="the extra `tflite` is not installed")

from spaceevo.export.parity import compare
from spaceevo.nn.supernet import Network
from spaceevo.quant.program import Program, execute
from spaceevo.runtimes.base import FileOptions
from spaceevo.runtimes.litert.flatbuffer import read_model
from spaceevo.runtimes.litert.layers import pads_as_same
from spaceevo.runtimes.litert.runtime import LiteRt
from tests.runtimes.conftest import steps_apart

LITERT = LiteRt()


def test_network_computes_what_was_trained(network: Network, program: Program, images: Tensor) -> None:
    file = LITERT.write(program)
    with torch.no_grad():
        trained = network(images)
    exact, runtime = execute(program, images), LITERT.load(file).logits(images)
    assert (steps_apart(program, exact, runtime) == 0).double().mean() > 0.98
    assert steps_apart(program, exact, runtime).max() <= 1
    assert compare(exact, runtime).agreement == 100
    assert compare(trained, runtime).mean_difference < 0.02
    torch.testing.assert_close(LITERT.load(file).logits(images, batch_size=5), runtime, rtol=0, atol=0)


@pytest.mark.parametrize("packed_channels", [8, 64])
def test_packed_files_compute_the_same_integers(program: Program, images: Tensor, packed_channels: int) -> None:
    plain, packed = (LITERT.write(program, options=FileOptions(packed_channels=n)) for n in (1, packed_channels))
    assert LITERT.op_counts(packed)["RESHAPE"] >= 2
    assert "RESHAPE" not in LITERT.op_counts(plain)
    assert not LITERT.float_ops(packed)
    torch.testing.assert_close(LITERT.load(packed).logits(images), LITERT.load(plain).logits(images), rtol=0, atol=0)
    assert len(packed) < len(plain) + 300_000


def test_file_is_int8_inside_and_small(program: Program) -> None:
    file = LITERT.write(program, {"space": "digits-012-000"}, FileOptions(packed_channels=1))
    counts, shapes = LITERT.op_counts(file), program.shapes()
    vectors = sum(op.weights is not None and shapes[op.inputs[0]][1:] in ((), (1, 1)) for op in program.ops)
    assert (counts["QUANTIZE"], counts["DEQUANTIZE"], counts["FULLY_CONNECTED"]) == (1, 1, vectors)
    assert not LITERT.float_ops(file)
    assert LITERT.metadata(file) == {"space": "digits-012-000"}
    assert read_model(file).description.startswith(b"spaceevo")
    integers = sum(op.weights.weight.size + 8 * len(op.weights.bias) for op in program.ops if op.weights)
    assert integers < len(file) < integers + 60_000


def test_watched_tensors_come_out_too(program: Program, images: Tensor) -> None:
    middle = program.ops[len(program.ops) // 2].output
    logits, values = LITERT.load(LITERT.write(program, options=FileOptions(watch=[middle]))).run(images)
    torch.testing.assert_close(logits, LITERT.load(LITERT.write(program)).logits(images), rtol=0, atol=0)
    assert tuple(values.shape[1:]) == program.shapes()[middle]
    quant = program.tensors[middle]
    levels = values.double() / quant.scale + quant.zero_point
    assert (levels - levels.round()).abs().max() < 1e-3


def test_padding_of_the_runtime_is_ours_only_where_symmetric() -> None:
    assert all(pads_as_same(size, kernel, 1) for size in (7, 8) for kernel in (1, 3, 5, 7))
    assert pads_as_same(9, 3, 2)
    assert not pads_as_same(10, 3, 2)
    assert pads_as_same(10, 1, 2)
