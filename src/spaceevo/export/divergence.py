"""Where do two executions of one program part? Integers of every tensor, compared in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spaceevo.export.onnx import to_onnx
from spaceevo.export.parity import run_onnx_outputs, run_tflite_outputs
from spaceevo.export.tflite import to_tflite
from spaceevo.nn.supernet import Network
from spaceevo.quant.program import Executor, Program

Integers = Mapping[str, Tensor]


class Divergence(NamedTuple):
    """How the integers of one tensor differ.

    Attributes:
        tensor: its name.
        share: of its integers that differ, in percent.
        steps: the greatest difference.
    """

    tensor: str
    share: float
    steps: int


def divergences(program: Program, reference: Integers, other: Integers) -> list[Divergence]:
    """Differences of every tensor that both have, in the program's order."""
    found = []
    for name in program.tensors:
        if name in reference and name in other:
            steps = (reference[name].double() - other[name].double()).abs()
            found.append(Divergence(name, 100.0 * float((steps > 0).double().mean()), int(steps.max())))
    return found


def first_divergence(program: Program, reference: Integers, other: Integers, share: float = 1.0) -> Divergence | None:
    """The first tensor of which more than `share` percent differ."""
    return next((found for found in divergences(program, reference, other) if found.share > share), None)


@torch.no_grad()
def network_integers(network: Network, program: Program, images: Tensor) -> dict[str, Tensor]:
    """What the trained network's layers compute, on the program's grids."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            quant = program.tensors[name]
            found[name] = (output.double() / quant.scale).round().cpu() + quant.zero_point

        return hook

    handles = []
    for path, module in network.named_modules():
        parts = path.split(".")
        name = ".".join((*parts[1:2], *parts[3:4], *parts[5:]))  # stages.S.blocks.I.layers.L
        if len(parts) == 6 and name in program.tensors:
            handles.append(module.register_forward_hook(keep(name)))
    try:
        network(images.to(next(network.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return found


def exact_integers(program: Program, images: Tensor) -> dict[str, Tensor]:
    """What the exact executor computes."""
    return Executor(program).integers(images)


def onnx_integers(program: Program, images: Tensor, *, optimize: bool = True) -> dict[str, Tensor]:
    """What ONNX Runtime computes, every tensor made an output."""
    names = [op.output for op in program.ops]
    model = to_onnx(program, watch=names).SerializeToString()
    return dict(zip(names, run_onnx_outputs(model, images, optimize=optimize)[1:], strict=True))


def tflite_integers(program: Program, images: Tensor) -> dict[str, Tensor]:
    """What LiteRT computes, every tensor made an output.

    Raises:
        MissingExtraError: `ai-edge-litert` is not installed.
    """
    names = [op.output for op in program.ops]
    values = run_tflite_outputs(to_tflite(program, watch=names), images)[1:]
    return {
        name: (real.double() / program.tensors[name].scale).round() + program.tensors[name].zero_point
        for name, real in zip(names, values, strict=True)
    }
