"""Training of one classifier: frozen parts, and rates that fall as they say."""

from __future__ import annotations

import math
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Literal

import pytest
import torch

from spaceevo.lit.finetune import FinetuneModule
from spaceevo.lit.module import Recipe

SGD = partial(torch.optim.SGD, lr=0.1)


def test_a_frozen_part_keeps_its_weights_and_statistics() -> None:
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.AdaptiveAvgPool2d(1))
    network = torch.nn.Sequential(body, torch.nn.Flatten(), torch.nn.Linear(4, 2))
    module = FinetuneModule(network, Recipe(1, SGD), 0, 0.1, [body])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = SGD(module.parameter_groups())
    network.train()
    for _, loss in module.passes(torch.randn(8, 3, 8, 8), torch.arange(8) % 2, Random(0)):
        torch.autograd.backward(loss)
    optimizer.step()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"2.weight", "2.bias"}


@pytest.mark.parametrize(("schedule", "part"), [("linear", 0.5), ("cosine", 0.5), ("linear", 0.25), ("cosine", 0.25)])
def test_schedules_fall_as_they_say(schedule: Literal["linear", "cosine"], part: float) -> None:
    class Module(FinetuneModule):
        trainer = SimpleNamespace(estimated_stepping_batches=100)  # type: ignore[assignment]

    recipe = Recipe(10, SGD, warmup_epochs=1, schedule=schedule)
    found = Module(torch.nn.Linear(2, 2), recipe, 0, 0.0).configure_optimizers()
    factor = found["lr_scheduler"].lr_lambdas[0]
    assert factor(0) == pytest.approx(0.001)
    assert factor(100) == pytest.approx(0)
    expected = 1 - part if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * part))
    assert factor(int(100 * part)) == pytest.approx(expected)
