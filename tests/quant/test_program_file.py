import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from spaceevo.errors import CheckpointError
from spaceevo.quant.program import execute
from spaceevo.quant.program_file import FORMAT, load_program, save_program
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


def test_a_program_gives_the_same_bytes_each_time(tmp_path: Path) -> None:
    program, path = random_block_program(BlockSpec("MobileNetV2Res", 8, 16, 3, 2, 1, "relu"), 5), tmp_path / "p"
    found = set()
    for _ in range(20):
        save_program(path, program, {"space": "somewhere"})
        found.add(path.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all"])
def test_broken_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "program.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"program.safetensors is not an integer program .*export it again"):
        load_program(path)


FAULTS = {
    "a float zero point": lambda content: content["tensors"].update(images=[0.1, 1.5]),
    "a negative scale": lambda content: content["tensors"].update(images=[-0.1, 1]),
    "an unknown kind": lambda content: content["ops"][0].update(kind="roll"),
    "a stride of a text": lambda content: content["ops"][0].update(stride="x"),
    "a stride of 0": lambda content: content["ops"][0].update(stride=0),
    "groups that do not fit": lambda content: content["ops"][0].update(groups=3),
    "an input from the future": lambda content: content["ops"][0].update(inputs=[content["ops"][-1]["output"]]),
    "an input that is none": lambda content: content["ops"][0].update(inputs=["nobody"]),
    "no inputs": lambda content: content["ops"][0].update(inputs=[]),
    "ops of numbers": lambda content: content.update(ops=[1, 2]),
    "the same output twice": lambda content: content["ops"].append(content["ops"][-1]),
    "a tensor more": lambda content: content["tensors"].update(more=[0.1, 0]),
    "a tensor less": lambda content: content["tensors"].popitem(),
    "a shape of two": lambda content: content["input"].update(shape=[8, 9]),
    "a huge shape": lambda content: content["input"].update(shape=[8, 10**9, 10**9]),
    "other channels": lambda content: content["input"].update(shape=[9, 9, 9]),
    "another version": lambda content: content.update(version=2),
    "a number of 5,000 digits": lambda content: content.update(version=10**4_999),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_operations_that_do_not_fit_are_refused(tmp_path: Path, fault: Callable[[Any], object]) -> None:
    path = tmp_path / "program.safetensors"
    save_program(path, random_block_program(BlockSpec("MobileNetV3K3Res", 8, 16, 5, 3, 2, "hswish"), 9))
    with safe_open(path, "numpy") as file:
        header, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    content = json.loads(header[FORMAT])
    fault(content)
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    text = json.dumps(content)
    sys.set_int_max_str_digits(digits)
    save_file(arrays, path, {**header, FORMAT: text})
    with pytest.raises(CheckpointError, match=r"program.safetensors is not an integer program .*; export it again$"):
        load_program(path)


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"x": np.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not an integer program"):
        load_program(tmp_path / "x.safetensors")
