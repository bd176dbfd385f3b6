"""Losses of block-wise distillation and of the sandwich rule."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from spaceevo.collectives.averaging import average_

VarianceOf = Literal["teacher", "published"]
VARIANCE_FLOOR = 0.01
"""Least variance of a channel, relative to the mean over all: flat channels must not outweigh the rest."""


def channel_variance(teacher: Tensor, *, over_ranks: bool = False) -> Tensor:
    """Compute the variance over H×W `(N, C)` of `(N, C, H, W)`, floored at 1 % of the mean over all.

    With `over_ranks` that mean is taken over all processes' images, so that the loss does not depend on how many there
    are; every process must then call this.
    """
    variance = teacher.to(torch.promote_types(teacher.dtype, torch.float32)).var((2, 3))
    mean = variance.mean()
    if over_ranks:
        average_([mean])
    return variance.clamp(min=VARIANCE_FLOOR * mean + 1e-12)


def noise_to_signal(
    student: Tensor, teacher: Tensor, variance_of: VarianceOf = "teacher", variance: Tensor | None = None
) -> Tensor:
    """Compute the NSR: squared error over variance, both per image and channel over H×W, mean over images and channels.

    Both features are `(N, C, H, W)`. The variance is the teacher's (paper), floored at 1 % of its mean, or
    `channel_variance(teacher)`, where it is known already; for `published` it is the student's, without a floor, as the
    published code and look-up tables have it.
    """
    student = student.to(torch.promote_types(student.dtype, torch.float32))  # under autocast it comes in half precision
    error = (student - teacher).square().mean((2, 3))
    if variance_of == "published":
        return (error / student.var((2, 3))).mean()
    return (error / (channel_variance(teacher) if variance is None else variance)).mean()


def adaptive_alpha_divergence(student_logits: Tensor, teacher_logits: Tensor, clip: float = 5.0) -> Tensor:
    """Compute the adaptive alpha-divergence of AlphaNet (arXiv 2102.07954): the larger of α = −1 and α = 1, per image.

    Both logits are `(N, classes)`; no gradient flows into the teacher's. `clip` bounds the importance ratio for α = −1.
    """
    log_student = torch.log_softmax(student_logits, dim=1)
    with torch.no_grad():
        log_ratio = torch.log_softmax(teacher_logits, dim=1) - log_student
        student, teacher = log_student.exp(), torch.softmax(teacher_logits, dim=1)
        clipped = torch.exp(-log_ratio).clamp(max=clip)
        divergence_minus = (student * (clipped - 1)).sum(1) / 2
        divergence_plus = (teacher * log_ratio).sum(1)
        take_minus = (divergence_minus > divergence_plus).unsqueeze(1)
        weight = torch.where(take_minus, 0.5 - clipped, log_ratio.exp())
    return -(student * weight * log_student).sum(1).mean()
