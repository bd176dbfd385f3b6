"""Losses against the published values and against the formulas written out image by image."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spaceevo.nn.losses import VarianceOf, adaptive_alpha_divergence, noise_to_signal


@pytest.fixture(scope="module")
def golden(reference: Path) -> list[dict[str, Any]]:
    return torch.load(reference / "golden" / "losses.pt", weights_only=True)


@pytest.mark.parametrize("index", range(4))
def test_published_alpha_divergence(golden: list[dict[str, Any]], index: int) -> None:
    case = golden[index]
    student = case["student_logits"].clone().requires_grad_()
    loss = adaptive_alpha_divergence(student, case["teacher_logits"])
    loss.backward()
    torch.testing.assert_close(loss.detach(), case["adaptive_alpha_loss"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(student.grad, case["adaptive_alpha_grad"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("index", range(4))
def test_published_noise_to_signal(golden: list[dict[str, Any]], index: int) -> None:
    case = golden[index]
    student = case["student_features"].clone().requires_grad_()
    loss = noise_to_signal(student, case["teacher_features"], "published")
    loss.backward()
    torch.testing.assert_close(loss.detach(), case["nsr_published"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(student.grad, case["nsr_published_grad"], rtol=1e-5, atol=1e-6)


def divergence_of_one(student: Tensor, teacher: Tensor) -> Tensor:
    """FACTS §8, for one image."""
    q, p = torch.softmax(student, 0), torch.softmax(teacher, 0).detach()
    ratio = (p / q).detach()
    clipped = (1 / ratio).clamp(max=5)
    minus, plus = (q.detach() * (clipped - 1)).sum() / 2, (p * ratio.log()).sum()
    weight = 0.5 - clipped if minus > plus else ratio
    return -(q.detach() * weight * q.log()).sum()


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_alpha_divergence_is_the_formula(spread: float) -> None:
    student, teacher = torch.randn(40, 9).double() * spread, torch.randn(40, 9).double() * spread
    ours, theirs = student.clone().requires_grad_(), student.clone().requires_grad_()
    loss = adaptive_alpha_divergence(ours, teacher)
    expected = torch.stack([divergence_of_one(s, t) for s, t in zip(theirs, teacher, strict=True)]).mean()
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_no_gradient_flows_into_the_teacher() -> None:
    student, teacher = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    adaptive_alpha_divergence(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_equal_logits_pull_nowhere() -> None:
    student = torch.randn(3, 5, requires_grad=True)
    adaptive_alpha_divergence(student, student.detach()).backward()
    assert student.grad.abs().max() < 1e-6


@pytest.mark.parametrize("variance_of", ["teacher", "published"])
def test_noise_to_signal_is_the_formula(variance_of: VarianceOf) -> None:
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    expected = []
    for n in range(2):
        for c in range(3):
            error = (
                sum((s - t) ** 2 for s, t in zip(student[n, c].flatten(), teacher[n, c].flatten(), strict=True)) / 20
            )
            divisor = teacher if variance_of == "teacher" else student
            values = divisor[n, c].flatten()
            expected.append(error / (sum((v - values.mean()) ** 2 for v in values) / 19))
    torch.testing.assert_close(noise_to_signal(student, teacher, variance_of), torch.stack(expected).mean())


def test_a_flat_teacher_channel_does_not_outweigh_the_rest() -> None:
    student, teacher = torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6)
    loss = noise_to_signal(student, teacher)
    teacher[0, 0] = 0.3
    flat = noise_to_signal(student, teacher)
    assert torch.isfinite(flat)
    assert flat < 20 * loss
    assert not torch.isfinite(noise_to_signal(teacher, student, "published"))


def test_a_perfect_student_has_no_noise() -> None:
    features = torch.randn(2, 3, 4, 4)
    assert noise_to_signal(features, features.clone()) == 0
