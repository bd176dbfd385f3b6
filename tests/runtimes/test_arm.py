"""Our files on emulated ARM processors, against this machine and against exact arithmetic."""

from pathlib import Path

import numpy as np
import pytest
import torch
from experiments.arm import emulator
from experiments.arm.agreement import COMPARED, strays, watched_file
from torch import Tensor

from spaceevo.quant.program import Executor, Program
from spaceevo.runtimes.registry import RUNTIMES

Files = dict[str, tuple[bytes, Tensor]]
IMAGES = 12
NEAR_TIE = 1e-4  # Steps; float32 has seven digits, of which three are before the point


@pytest.fixture(scope="module")
def files(program: Program, images: Tensor) -> Files:
    """A file of each runtime, with every tensor as an output, and its images."""
    runtimes = [RUNTIMES[name] for name in COMPARED]
    return {f"{it.name}.{it.format}": (watched_file(it, program), images[:IMAGES]) for it in runtimes}


@pytest.mark.slow
@pytest.mark.parametrize("cpu", emulator.CPUS)
def test_arm_computes_what_this_machine_does(cpu: str, program: Program, files: Files) -> None:
    if reason := emulator.missing():
        pytest.skip(reason)
    found = emulator.outputs(cpu, files)
    for name, (file, images) in files.items():
        runtime = RUNTIMES[name.partition(".")[0]]
        logits, *tensors = found[name]
        here = runtime.load(file).outputs(images)[0]
        assert torch.equal(logits.argmax(1), here.argmax(1))
        if runtime.name == "litert":
            assert torch.equal(logits, here)
        totals = strays(program, images, tensors)
        assert max(it.steps for it in totals.values()) <= 1
        assert max(it.from_tie for it in totals.values()) < NEAR_TIE
        assert sum(it.number for it in totals.values()) < 1e-4 * sum(map(torch.numel, tensors))


def test_strays_are_told_from_what_follows_of_them(program: Program, images: Tensor) -> None:
    executor = Executor(program)
    integers = executor.integers(images[:1])
    exact = [integers[op.output].to(torch.uint8) for op in program.ops]
    assert all(it.number == 0 for it in strays(program, images[:1], exact).values())
    first = program.ops[2]
    integers[first.output] = integers[first.output].clone()
    integers[first.output].view(-1)[7] += 2 if integers[first.output].view(-1)[7] < 100 else -2
    values = dict(integers)
    for index, op in enumerate(program.ops[3:], start=3):
        quant = program.tensors[op.output]
        steps = (executor.real(index, values) / float(np.float32(quant.scale))).round()
        values[op.output] = (steps + quant.zero_point).clamp(0, 255)
    found = strays(program, images[:1], [values[op.output].to(torch.uint8) for op in program.ops])
    assert sum(it.number for it in found.values()) == 1
    assert found[first.kind].steps == 2
    assert found[first.kind].from_tie > NEAR_TIE


def test_what_cannot_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "FOLDER", tmp_path)
    assert "python -m experiments.arm.fetch" in emulator.missing()
