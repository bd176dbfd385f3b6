"""Finds where two executions of one program part: integers of every tensor, compared in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spaceevo.nn.supernet import Network
from spaceevo.quant.program import Program

Integers = Mapping[str, Tensor]


class Divergence(NamedTuple):
    """Says how the integers of one tensor differ.

    Attributes:
        tensor: its name.
        share: percent of its integers that differ.
        steps: the greatest difference.
    """

    tensor: str
    share: float
    steps: int


def divergences(program: Program, reference: Integers, other: Integers) -> list[Divergence]:
    """Compare every tensor that both have, in the program's order."""
    found = []
    for name in program.tensors:
        if name in reference and name in other:
            steps = (reference[name].double() - other[name].double()).abs()
            found.append(Divergence(name, 100.0 * float((steps > 0).double().mean()), int(steps.max())))
    return found


def first_divergence(program: Program, reference: Integers, other: Integers, share: float = 1.0) -> Divergence | None:
    """Find the first tensor of which more than `share` percent differ."""
    return next((found for found in divergences(program, reference, other) if found.share > share), None)


@torch.no_grad()
def network_integers(network: Network, program: Program, images: Tensor) -> dict[str, Tensor]:
    """Compute what the trained network's layers compute, on the program's grids."""
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
