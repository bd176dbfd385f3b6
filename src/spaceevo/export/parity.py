"""Compares logits: does a file compute what was trained?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spaceevo.errors import ExportError


@dataclass(frozen=True)
class ParityReport:
    """Says how far two sets of logits of the same images are apart.

    Attributes:
        images: number of images.
        agreement: images with the same top-1, in percent.
        mean_difference: mean absolute difference over the reference's standard deviation; `max_difference` likewise.
    """

    images: int
    agreement: float
    mean_difference: float
    max_difference: float


@dataclass(frozen=True)
class Tolerance:
    """Says how far a file may be from the trained network, in figures of `ParityReport`."""

    min_agreement: float
    max_mean_difference: float

    def check(self, what: str, report: ParityReport, where: str) -> None:
        """Let a file pass by its comparison with the trained network; `where` tells where they first differ.

        Raises:
            ExportError: it is too far from the trained network.
        """
        if report.agreement >= self.min_agreement and report.mean_difference <= self.max_mean_difference:
            return
        raise ExportError(
            f"{what} is not the trained network: top-1 agrees on {report.agreement:.2f} % of {report.images} images "
            f"(recipe.export.min_agreement: {self.min_agreement:g}), logits differ by {report.mean_difference:.3g} of "
            f"their std on average (recipe.export.max_mean_difference: {self.max_mean_difference:g}); "
            f"first divergence: {where}; no file was written"
        )


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
