"""What the passes of a supernet's step learn by."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

from spaceevo.lit.module import Recipe
from spaceevo.lit.supernet import SubnetLoss, SupernetModule
from spaceevo.nn.supernet import Supernet
from spaceevo.space.description import parse_space

SMOOTHING = 0.1
MEMBER = parse_space("digits-012-010")
PASSES = ["max", "random1", "random2", "min"]


def losses(loss: SubnetLoss) -> tuple[list[float], list[np.ndarray], np.ndarray]:
    """Return the losses of a step, the log-probabilities behind each, and the labels."""
    torch.manual_seed(0)
    supernet = Supernet(MEMBER).train()  # by statistics of the batch: others would leave all logits alike
    images, labels = torch.randn(6, 3, 24, 24), torch.arange(6)
    logits: list[Tensor] = []
    supernet.register_forward_hook(lambda _module, _inputs, output: logits.append(output.detach().double()))
    module = SupernetModule(supernet, Recipe(1, torch.optim.SGD), 0, SMOOTHING, 0.0, loss)
    named = [(name, found.item()) for name, found in module.passes(images, labels, Random(0))]
    assert [name for name, _ in named] == PASSES
    spread = [y.numpy() - np.log(np.exp(y.numpy()).sum(1, keepdims=True)) for y in logits]
    return [found for _, found in named], spread, labels.numpy()


def label_loss(log: np.ndarray, labels: np.ndarray) -> float:
    """Cross-entropy against (1 − s) of the label and s of all classes alike."""
    target = (1 - SMOOTHING) * np.eye(log.shape[1])[labels] + SMOOTHING / log.shape[1]
    return float(-(target * log).sum(1).mean())


def test_all_subnets_can_learn_from_labels() -> None:
    found, logs, labels = losses("labels")
    assert found == pytest.approx([label_loss(log, labels) for log in logs], rel=1e-5)


def test_subnets_can_learn_from_the_largest_by_kl_divergence() -> None:
    found, logs, labels = losses("kl_divergence")
    teacher = logs[0]
    expected = [float((np.exp(teacher) * (teacher - log)).sum(1).mean()) for log in logs[1:]]
    assert found == pytest.approx([label_loss(teacher, labels), *expected], rel=1e-4)


def test_as_published_they_learn_by_alpha_divergence() -> None:
    by_default, kl = losses("alpha_divergence")[0], losses("kl_divergence")[0]
    assert by_default[0] == kl[0]
    assert all(one != other for one, other in zip(by_default[1:], kl[1:], strict=True))
