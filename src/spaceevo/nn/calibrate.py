"""Batch-norm recalibration: a subnet's own statistics, from a few batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn

Batch = TypeVar("Batch")


@torch.no_grad()
def recalibrate(module: nn.Module, batches: Iterable[Batch], forward: Callable[[Batch], object]) -> None:
    """Replace the running statistics of the active layers by the mean over `batches`, every batch counting equally.

    The module is left in eval mode. Subnets share their norms:
    recalibrate again after activating another subnet.
    """
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.train()
    try:
        for count, batch in enumerate(batches, start=1):
            for norm in norms:
                norm.momentum = 1.0 / count
            forward(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
