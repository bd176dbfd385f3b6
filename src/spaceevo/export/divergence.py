"""Finds where two executions of one program part: integers of every tensor, compared in order."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spaceevo.nn.supernet import Network
from spaceevo.quant.program import Program

Integers = Mapping[str, Tensor]


class Divergence(NamedTuple):
    """Says how the integers of one tensor differ: the share of them that do, in percent, and by how much at most."""

    tensor: str
    share: float
    steps: int


def divergences(program: Program, reference: Integers, other: Integers) -> list[Divergence]:
    """Compare every tensor that both have, in the program's order."""
    names = [name for name in program.tensors if name in reference and name in other]
    steps = {name: (reference[name].double() - other[name].double()).abs() for name in names}
    return [Divergence(name, 100.0 * float((x > 0).double().mean()), int(x.max())) for name, x in steps.items()]


def first_divergence(program: Program, reference: Integers, other: Integers, share: float = 1.0) -> Divergence | None:
    """Find the first tensor of which more than `share` percent differ."""
    return next((found for found in divergences(program, reference, other) if found.share > share), None)


@torch.no_grad()
def network_integers(network: Network, program: Program, images: Tensor) -> dict[str, Tensor]:
    """Compute what the trained network's layers compute, on the program's grids."""
    found: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        quant = program.tensors[name]
        found[name] = (output.double() / quant.scale).round().cpu() + quant.zero_point

    with ExitStack() as hooks:
        for path, module in network.named_modules():
            name = ".".join(path.split(".")[1::2])  # stages.S.blocks.I.layers.L
            if path.count(".") == 5 and name in program.tensors:
                hooks.callback(module.register_forward_hook(partial(keep, name)).remove)
        network(images.to(next(network.parameters()).device))
    return found
