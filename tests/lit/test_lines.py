"""How far training is, where the output is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from tests.lit.test_training import RECIPE, Toy, digits, make_data  # noqa: F401  (a fixture)
from torch import Tensor

from spaceevo import terminal
from spaceevo.lit.trainer import make_trainer


class Slow(Toy):
    """Takes 11 s for a step, by the clock that lines are told by."""

    def __init__(self, now: list[float]) -> None:
        super().__init__(RECIPE)
        self.now = now

    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        self.now[0] += 11
        yield from super().passes(images, labels, rng)


def test_training_tells_epoch_step_loss_and_time_left(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    digits: Path,  # noqa: F811  (the fixture)
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    monkeypatch.setattr("spaceevo.lit.lines.time.monotonic", lambda: now[0])
    monkeypatch.setattr("spaceevo.lit.lines.clock", clock := terminal._Clock())
    monkeypatch.setattr(terminal, "clock", clock)
    trainer = make_trainer(
        folder=tmp_path / "toy_fp32",
        epochs=3,
        accelerator="cpu",
        limit_train_batches=4,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
    )
    trainer.fit(Slow(now), make_data(digits))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  toy_fp32: ")]
    assert [line.partition(", loss")[0] for line in told] == [
        "  toy_fp32: epoch 1 of 3, step 3 of 4",
        "  toy_fp32: epoch 2 of 3, step 2 of 4",
        "  toy_fp32: epoch 3 of 3, step 1 of 4",
        "  toy_fp32: epoch 3 of 3, step 4 of 4",
    ]
    assert [line.rpartition(", ")[2] for line in told] == ["99 s left", "66 s left", "33 s left", "0 s left"]
    assert all(0 < float(line.partition("loss ")[2].split(",")[0]) < 10 for line in told)
