"""Compares what runtimes compute on emulated ARM processors with this machine, integer by integer.

    python -m experiments.arm.agreement [digits | lively …]

Networks: `digits`, a small trained one on 12 of its test images; `lively`, SEQnet@vnni-A0 untrained, on 12 images of
noise, whose logits depend on every layer. Every tensor of a network is watched. An operation *strays* where it gives
another integer than exact arithmetic does from the integers that it reads itself; what it reads may differ already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from experiments.arm.emulator import CPUS, missing, outputs
from experiments.runtimes.agreement import SIZE, digits, trained
from torch import Tensor, nn

from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.evaluate import calibrate_subnet
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.program import Executor, Program
from spaceevo.runtimes.base import FileOptions, Runtime
from spaceevo.runtimes.registry import RUNTIMES
from spaceevo.space.published import published_model

IMAGES = 12
COMPARED = ("litert", "onnxruntime")
HERE = "this machine"


class Case(NamedTuple):
    """Holds a network and images `(N, C, H, W)` that it is run on."""

    program: Program
    images: Tensor


class Strays(NamedTuple):
    """Counts integers that are not what exact arithmetic gives."""

    number: int
    steps: int  # the largest difference
    from_tie: float  # of the exact result, to the middle between two integers, in steps; the largest


def strays(program: Program, images: Tensor, found: Sequence[Tensor]) -> dict[str, Strays]:
    """Count strays by kind of operation; `found` are the values or integers of all tensors, in the program's order."""
    executor, integers = Executor(program), {}
    integers[program.input_name] = executor.integers(images, [program.input_name])[program.input_name]
    totals: dict[str, Strays] = {}
    for index, (op, values) in enumerate(zip(program.ops, found, strict=True)):
        quant = program.tensors[op.output]
        exact = executor.real(index, integers) / float(np.float32(quant.scale))
        if values.is_floating_point():
            values = (values.double() / quant.scale).round() + quant.zero_point
        integers[op.output] = values.double()
        difference = (integers[op.output] - (exact.round() + quant.zero_point).clamp(0, 255)).abs()
        from_tie = ((exact - exact.floor() - 0.5).abs() * (difference > 0)).max()
        count, steps, far = totals.get(op.kind, Strays(0, 0, 0.0))
        more = int((difference > 0).sum()), int(difference.max()), float(from_tie)
        totals[op.kind] = Strays(count + more[0], max(steps, more[1]), max(far, more[2]))
    return totals


def watched_file(runtime: Runtime, program: Program) -> bytes:
    """Write a program with all its tensors as further outputs; nothing is packed, as for ARM."""
    return runtime.write(program, options=FileOptions(watch=[op.output for op in program.ops], packed_channels=1))


def small() -> Case:
    """Train a network on scikit-learn's digits."""
    images, labels = digits()
    is_test = torch.arange(len(images)) % 4 == 0
    supernet = trained(images[~is_test], labels[~is_test], "deploy")
    calibrate_subnet(supernet, supernet.member.smallest, [images[~is_test][:256]])
    return Case(to_program(supernet.extract(supernet.member.smallest), (3, SIZE, SIZE)), images[is_test][:IMAGES])


def lively() -> Case:
    """Make a published subnet of untrained weights and statistics as its images have them."""
    model = published_model("SEQnet@vnni-A0")
    assert model.spec is not None
    size = model.spec.resolution
    torch.manual_seed(0)
    images = torch.randn(IMAGES, 3, size, size) * 1.5 * torch.rand(IMAGES, 1, 1, 1) + torch.randn(IMAGES, 3, 1, 1)
    supernet = Supernet(model.member).eval()
    for norm in (module for module in supernet.modules() if isinstance(module, nn.BatchNorm2d)):
        sign = torch.where(torch.rand_like(norm.weight) < 0.3, -1.0, 1.0)
        norm.weight.data.uniform_(0.5, 1.5).mul_(sign)
        norm.bias.data.normal_(std=0.3)
    supernet.activate(model.spec)
    recalibrate(supernet, [images], supernet)
    set_quant(supernet, True)
    with torch.no_grad():
        supernet(images)
    return Case(to_program(supernet.extract(model.spec), (3, size, size)), images)


CASES: dict[str, Callable[[], Case]] = {"digits": small, "lively": lively}


def tell(name: str, case: Case) -> None:
    """Print a row for every runtime on every processor."""
    runtimes = {each: RUNTIMES[each] for each in COMPARED}
    files = {f"{each}.{it.format}": (watched_file(it, case.program), case.images) for each, it in runtimes.items()}
    here = {f"{each}.{it.format}": it.load(files[f"{each}.{it.format}"][0]).outputs(case.images)
            for each, it in runtimes.items()}  # fmt: skip
    step = case.program.tensors[case.program.output_name].scale
    for cpu in (HERE, *CPUS):
        for file, (logits, *tensors) in (here if cpu == HERE else outputs(cpu, files)).items():
            apart = ((logits - here[file][0]) / step).round().abs()
            same = int((logits.argmax(1) == here[file][0].argmax(1)).sum())
            found = {kind: it for kind, it in strays(case.program, case.images, tensors).items() if it.number}
            kinds = ", ".join(f"{it.number} {kind}" for kind, it in found.items()) or "none"
            steps, tie = (max((it[i] for it in found.values()), default=0) for i in (1, 2))
            equal = int((apart.amax(1) == 0).sum())
            row = (name, cpu, file.partition(".")[0], equal, int(apart.max()), same, kinds, steps, f"{tie:.0e}")
            print("|", " | ".join(map(str, row)), "|", flush=True)


def main() -> None:
    """Print the table."""
    if reason := missing():
        sys.exit(reason)
    torch.set_num_threads(1)
    print("| network | processor | runtime | images equal | steps apart | same top-1 | strays | steps | from a tie |")
    print("|---" * 9 + "|")
    for name in sys.argv[1:] or CASES:
        tell(name, CASES[name]())


if __name__ == "__main__":
    main()
