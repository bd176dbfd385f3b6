"""Does the file compute what was trained? Logits of the trained network, the exact executor and the runtime, compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spaceevo.latency.measure import session_of


@dataclass(frozen=True)
class Parity:
    """Two sets of logits on the same images.

    Attributes:
        images: how many.
        agreement: share with the same top-1, in percent.
        mean_difference: mean absolute difference, as a share of the reference's standard deviation.
        max_difference: the greatest, likewise.
    """

    images: int
    agreement: float
    mean_difference: float
    max_difference: float


def compare(reference: Tensor, logits: Tensor) -> Parity:
    """Compare logits `(N, classes)` with reference ones."""
    difference, spread = (logits - reference).abs(), reference.std()
    return Parity(
        images=len(reference),
        agreement=100.0 * float((logits.argmax(1) == reference.argmax(1)).double().mean()),
        mean_difference=float(difference.mean() / spread),
        max_difference=float(difference.max() / spread),
    )


def run_onnx(model: bytes, images: Tensor, batch_size: int = 64, optimize: bool = True) -> Tensor:
    """Logits `(N, classes)` of an ONNX model on `images` `(N, C, H, W)`, with the runtime's optimisations on or off."""
    session = session_of(model, optimize)
    name = session.get_inputs()[0].name
    outputs = [session.run(None, {name: batch.numpy()})[0] for batch in images.split(batch_size)]
    return torch.cat([torch.from_numpy(output) for output in outputs])
