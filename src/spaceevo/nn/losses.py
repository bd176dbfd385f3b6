"""Losses of block-wise distillation and of the sandwich rule."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

VarianceOf = Literal["teacher", "published"]
VARIANCE_FLOOR = 0.01
"""Least variance of a channel, relative to the mean over all: flat channels must not outweigh the rest."""


def noise_to_signal(student: Tensor, teacher: Tensor, variance_of: VarianceOf = "teacher") -> Tensor:
    """NSR: squared error over variance, both per image and channel over H×W, mean over images and channels.

    Args:
        student: features `(N, C, H, W)`.
        teacher: features `(N, C, H, W)`.
        variance_of: `teacher` divides by the teacher's variance (paper), floored at 1 % of its mean; `published`
            by the student's, without a floor, as the published code and look-up tables do.
    """
    error = (student - teacher).square().mean((2, 3))
    if variance_of == "published":
        return (error / student.var((2, 3))).mean()
    variance = teacher.var((2, 3))
    return (error / variance.clamp(min=VARIANCE_FLOOR * variance.mean().item() + 1e-12)).mean()


def adaptive_alpha_divergence(student_logits: Tensor, teacher_logits: Tensor, clip: float = 5.0) -> Tensor:
    """Adaptive alpha-divergence of AlphaNet (arXiv 2102.07954): the larger of α = −1 and α = 1, per image.

    Args:
        student_logits: `(N, classes)`.
        teacher_logits: `(N, classes)`; no gradient flows into them.
        clip: bound of the importance ratio for α = −1.
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
