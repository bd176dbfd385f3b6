"""Top-1 of a network or of one subnet of a supernet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.supernet import Supernet
from spaceevo.space.encoding import SubnetSpec

Batch = tuple[Tensor, Tensor]


@torch.no_grad()
def logits_of(network: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Logits `(N, classes)` and labels `(N,)` of all images, in eval mode."""
    network.eval()
    device = next(chain(network.parameters(), network.buffers())).device
    pairs = [(network(images.to(device)).cpu(), labels) for images, labels in batches]
    return torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs])


def top1(network: nn.Module, batches: Iterable[Batch]) -> float:
    """Share of images whose largest logit is their label's, in percent."""
    logits, labels = logits_of(network, batches)
    return 100.0 * float((logits.argmax(1) == labels).double().mean())


def calibrate_subnet(supernet: Supernet, spec: SubnetSpec, calibration: Sequence[Tensor]) -> None:
    """Put a subnet in force with batch-norm statistics of its own; leaves eval mode."""
    supernet.activate(spec)
    device = next(supernet.parameters()).device
    recalibrate(supernet, calibration, lambda images: supernet(images.to(device)))


def subnet_top1(supernet: Supernet, spec: SubnetSpec, calibration: Sequence[Tensor], batches: Iterable[Batch]) -> float:
    """Top-1 in percent of one subnet, batch norm recalibrated first."""
    calibrate_subnet(supernet, spec, calibration)
    return top1(supernet, batches)
