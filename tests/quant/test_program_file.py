from pathlib import Path

import numpy as np
import pytest
import torch

from spaceevo.errors import CheckpointError
from spaceevo.quant.program import execute
from spaceevo.quant.program_file import load_program, save_program
from spaceevo.runtimes.random_program import random_block_program
from spaceevo.space.spec import BlockSpec


def test_a_program_comes_back_bit_for_bit(tmp_path: Path) -> None:
    program = random_block_program(BlockSpec("MobileNetV3K3Res", 8, 16, 5, 3, 2, "hswish"), 9)
    save_program(tmp_path / "program.safetensors", program, {"space": "somewhere"})
    read, metadata = load_program(tmp_path / "program.safetensors")
    assert metadata == {"space": "somewhere"}
    assert (read.input_name, read.input_shape, read.tensors) == (
        program.input_name,
        program.input_shape,
        program.tensors,
    )
    for op, other in zip(program.ops, read.ops, strict=True):
        assert (op.kind, op.output, op.inputs, op.stride, op.groups) == (
            other.kind,
            other.output,
            other.inputs,
            other.stride,
            other.groups,
        )
        assert (op.weights is None) == (other.weights is None)
        if op.weights is not None and other.weights is not None:
            for field in ("weight", "scale", "bias"):
                one, two = getattr(op.weights, field), getattr(other.weights, field)
                assert one.dtype == two.dtype
                assert np.array_equal(one, two)
    images = torch.randn(2, 8, 9, 9)
    assert torch.equal(execute(read, images), execute(program, images))


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all"])
def test_broken_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "program.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"program.safetensors is not an integer program .*export it again"):
        load_program(path)


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not an integer program"):
        load_program(tmp_path / "x.safetensors")
