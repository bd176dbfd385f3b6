"""Compares logits, and integers of every tensor: does a file compute what was trained, and if not, from where on?"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spaceevo.errors import ExportError
from spaceevo.nn.supernet import Network
from spaceevo.quant.program import Program

Integers = Mapping[str, Tensor]


@dataclass(frozen=True)
class ParityReport:
    """Says how far two sets of logits of the same images are apart."""

    images: int  # number of images
    agreement: float  # images with the same top-1, in percent
    # mean absolute difference over the reference's standard deviation; `max_difference` likewise
    mean_difference: float
    max_difference: float
    # images of the others that are no disagreement: the reference's logits of both answers are within an output step
    near_ties: int = 0

    @property
    def agreeing(self) -> int:
        """Number of images with the same top-1."""
        return round(self.agreement * self.images / 100)

    @property
    def missed(self) -> int:
        """Number of images with another top-1 that are no near ties."""
        return self.images - self.agreeing - self.near_ties

    def __str__(self) -> str:
        """Say on how many images both agree."""
        ties = f", {self.near_ties} near ties" * (self.near_ties > 0)
        return f"agrees on {self.agreeing} of {self.images}{ties}"


@dataclass(frozen=True)
class Tolerance:
    """Says how far a file may be from the trained network, in figures of `ParityReport`."""

    min_agreement: float
    max_mean_difference: float

    def allowed(self, images: int) -> int:
        """Count the images that may have another top-1: their share, but of few images one, unless none may."""
        share = 1 - self.min_agreement / 100
        return max(int(share * images + 1e-9), min(1, images - 1)) if share > 0 else 0

    def check(self, what: str, report: ParityReport, where: str) -> None:
        """Let a file pass by its comparison with the trained network; `where` tells where they first differ.

        Raises:
            ExportError: it is too far from the trained network.
        """
        allowed = self.allowed(report.images)
        if report.missed <= allowed and report.mean_difference <= self.max_mean_difference:
            return
        raise ExportError(
            f"{what} is not the trained network: top-1 {report}, {allowed} may differ "
            f"(recipe.export.min_agreement: {self.min_agreement:g}), logits differ by {report.mean_difference:.3g} of "
            f"their std on average (recipe.export.max_mean_difference: {self.max_mean_difference:g}); "
            f"first divergence: {where}; no file was written"
        )

    def check_first(self, what: str, report: ParityReport, where: str) -> None:
        """Refuse, by its first images, a file that would not pass on all of them; raises as `check`."""
        is_near = report.mean_difference <= 2 * self.max_mean_difference
        if report.missed > self.allowed(report.images) + report.images // 10 or not is_near:
            self.check(f"{what}, by its first images,", report, where)


def compare(reference_logits: Tensor, logits: Tensor, step: float = 0.0) -> ParityReport:
    """Compare logits `(N, classes)` with reference ones; `step` is that between two values of an INT8 output.

    Raises:
        ExportError: the shapes differ.
    """
    if reference_logits.shape != logits.shape:
        shapes = f"{tuple(logits.shape)} against {tuple(reference_logits.shape)} of the reference"
        raise ExportError(f"logits of shape {shapes} cannot be compared; run both on the same images and classes")
    difference = (logits - reference_logits).abs() / reference_logits.std().clamp(min=1e-12)
    best, answers = reference_logits.max(1)
    other = logits.argmax(1, keepdim=True)
    is_near = best - reference_logits.gather(1, other)[:, 0] <= 1.001 * step
    differs = other[:, 0] != answers
    return ParityReport(
        images=len(logits),
        agreement=100.0 * float((~differs).double().mean()),
        mean_difference=float(difference.mean()),
        max_difference=float(difference.max()),
        near_ties=int((differs & is_near).sum()),
    )


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
