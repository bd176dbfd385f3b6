"""Batch-norm recalibration: a subnet's own statistics, from a few batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from spaceevo.collectives.averaging import average_, share

Batch = TypeVar("Batch")


@torch.no_grad()
def recalibrate(module: nn.Module, batches: Sequence[Batch], forward: Callable[[Batch], object]) -> None:
    """Replace the running statistics of the active layers by the mean over `batches`, every batch counting equally.

    In a distributed run, where all get the same batches, each process takes its share of them, and the statistics are
    averaged over all. The module is left in eval mode. Subnets share their norms: recalibrate again after activating
    another. `module` may hold several networks, all of which `forward` runs on one batch.
    """
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.train()
    mine = share(batches)
    try:
        for count, batch in enumerate(mine, start=1):
            for norm in norms:
                norm.momentum = 1.0 / count
            forward(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
    statistics = [s for norm in norms for s in (norm.running_mean, norm.running_var) if s is not None]
    average_(statistics, weight=len(mine))
