"""Does a file compute what was trained? Logits of network, exact executor and runtime, compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spaceevo.errors import ExportError
from spaceevo.latency.measure import Model, session_of


@dataclass(frozen=True)
class ParityReport:
    """How far two sets of logits of the same images are apart.

    Attributes:
        images: number of images.
        agreement: images with the same top-1, in percent.
        mean_difference: mean absolute difference over the reference's standard deviation.
        max_difference: greatest absolute difference over the reference's standard deviation.
    """

    images: int
    agreement: float
    mean_difference: float
    max_difference: float


def compare(reference_logits: Tensor, logits: Tensor) -> ParityReport:
    """Compare logits `(N, classes)` with reference ones.

    Raises:
        ExportError: the shapes differ.
    """
    if reference_logits.shape != logits.shape:
        shapes = f"{tuple(logits.shape)} against {tuple(reference_logits.shape)} of the reference"
        raise ExportError(f"logits of shape {shapes} cannot be compared; run both on the same images and classes")
    difference = (logits - reference_logits).abs() / reference_logits.std().clamp(min=1e-12)
    return ParityReport(
        images=len(logits),
        agreement=100.0 * float((logits.argmax(1) == reference_logits.argmax(1)).double().mean()),
        mean_difference=float(difference.mean()),
        max_difference=float(difference.max()),
    )


def run_onnx(model: Model, images: Tensor, batch_size: int = 64, optimize: bool = True) -> Tensor:
    """Logits `(N, classes)` that ONNX Runtime computes.

    Args:
        model: the file or its bytes.
        images: `(N, C, H, W)` of the model's resolution.
        batch_size: images run at a time.
        optimize: whether the runtime may fuse operators into integer ones, as it does when deployed.
    """
    session = session_of(model, optimize=optimize)
    name = session.get_inputs()[0].name
    batches = torch.split(images.cpu(), batch_size)
    outputs = [session.run(None, {name: batch.numpy()})[0] for batch in batches]
    return torch.cat([torch.from_numpy(output) for output in outputs])
