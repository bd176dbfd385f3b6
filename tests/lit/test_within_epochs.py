"""A training killed within an epoch goes on there, and ends as an undisturbed one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from tests.lit.test_training import RECIPE, Bench, Toy, digits
from torch import Tensor, nn

from spaceevo.errors import CheckpointError
from spaceevo.lit.guard import DivergenceError, Guard
from spaceevo.lit.module import Callback, Trainer
from spaceevo.nn.checkpoint import write_sealed

__all__ = ["digits"]
OFTEN = replace(RECIPE, epochs=2, save_minutes=1e-9)  # after every step


class Counted(Toy):
    """Adds noise of the global generator and batch norm to what a toy does, and keeps the numbers of its steps."""

    def __init__(self, seen: list[int], kill: int | None = None, ema: float | None = None) -> None:
        super().__init__(replace(OFTEN, ema_decay=ema), kill=kill)
        self.norm = nn.BatchNorm1d(3, affine=False)
        self.seen = seen

    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        self.seen.append(self.global_step)
        noise = torch.rand(1) + rng.random()
        return super().passes(images + noise * self.norm(images.mean((2, 3)))[:, :, None, None], labels, rng)


@pytest.fixture
def bench(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("tests.lit.test_training.BATCHES", 5)
    return Bench(digits, tmp_path)


@pytest.mark.parametrize("ema", [None, 0.5])
@pytest.mark.parametrize("step", [3, 5, 8])
def test_it_goes_on_after_the_last_step(bench: Bench, step: int, ema: float | None) -> None:
    undisturbed: list[int] = []
    whole = bench.fit("whole.pth", lambda: Counted(undisturbed, ema=ema))
    curve = bench.training.curves["toy"]
    steps: list[int] = []
    with pytest.raises(SystemError):
        bench.fit("killed.pth", lambda: Counted([], step, ema))
    assert torch.equal(whole, bench.fit("killed.pth", lambda: Counted(steps, ema=ema)))
    file = "last.ckpt" if step == 5 else "within.ckpt"
    assert any(line.startswith("toy: resumes from") and line.endswith(file) for line in bench.said)
    assert undisturbed == list(range(10))
    assert steps == list(range(step, 10))
    assert bench.training.curves["toy"] == curve


def test_what_a_killed_run_had_had_is_left_out_of_no_other(bench: Bench) -> None:
    """Networks are trained in a row with one data module."""
    whole = bench.fit("whole.pth", lambda: Toy(OFTEN))
    with pytest.raises(SystemError):
        bench.fit("killed.pth", lambda: Toy(OFTEN, kill=3))
    bench.fit("killed.pth", lambda: Toy(OFTEN))
    assert torch.equal(whole, bench.fit("another.pth", lambda: Toy(OFTEN)))


def test_a_damaged_state_within_an_epoch_gives_way_to_the_last_epochs(bench: Bench) -> None:
    whole = bench.fit("whole.pth", lambda: Toy(OFTEN))
    with pytest.raises(SystemError):
        bench.fit("killed.pth", lambda: Toy(OFTEN, kill=8))
    (within,) = (bench.folder / "run/toy").glob("*/within.ckpt")
    within.write_bytes(b"junk")
    assert torch.equal(whole, bench.fit("killed.pth", lambda: Toy(OFTEN)))
    assert bench.said[:2] == [f"toy: {within} is damaged", f"toy: resumes from {within.with_name('last.ckpt')}"]


def test_a_state_of_another_training_is_told_in_a_line(bench: Bench) -> None:
    whole = bench.fit("whole.pth", lambda: Toy(OFTEN))
    with pytest.raises(SystemError):
        bench.fit("killed.pth", lambda: Toy(OFTEN, kill=8))
    (within,) = (bench.folder / "run/toy").glob("*/within.ckpt")
    state = torch.load(within, weights_only=False)
    state["state_dict"] = {f"other.{name}": value for name, value in state["state_dict"].items()}
    write_sealed(within, state)
    with pytest.raises(CheckpointError, match=r"within\.ckpt does not fit this training \(.*other.*; move it away"):
        bench.fit("killed.pth", lambda: Toy(OFTEN))
    within.unlink()
    assert torch.equal(whole, bench.fit("killed.pth", lambda: Toy(OFTEN)))


@pytest.mark.parametrize("minutes", [1e-9, None])
def test_a_rollback_goes_back_to_the_last_epoch_whenever_states_were_kept(bench: Bench, minutes: float | None) -> None:
    steps: list[int] = []

    class Noted(Toy):
        def on_train_batch_start(self, *args: object) -> None:
            steps.append(self.global_step)

    recipe = replace(OFTEN, save_minutes=minutes, guard=Guard(action="rollback"))
    bench.fit("toy.pth", lambda: Noted(recipe, fault=7))
    assert steps == [*range(8), *range(5, 10)]


def test_weights_that_are_no_numbers_are_not_kept_within_an_epoch(bench: Bench) -> None:
    class Broken(Toy):
        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
            super().training_step(batch, index)
            if self.global_step == 3:
                self.layer.weight.data[0, 0] = float("inf")

    with pytest.raises(DivergenceError, match="loss is nan at step 3"):
        bench.fit("toy.pth", lambda: Broken(OFTEN))
    (within,) = (bench.folder / "run/toy").glob("*/within.ckpt")
    assert torch.load(within, weights_only=False)["global_step"] == 2


def test_a_run_that_goes_on_keeps_its_id(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ids: list[str] = []
    make = bench.training.make_trainer

    def noted(folder: Path, epochs: int, callbacks: Sequence[Callback], run_id: str) -> Trainer:
        ids.append(run_id)
        return make(folder, epochs, callbacks, run_id)

    monkeypatch.setattr(bench.training, "make_trainer", noted)
    with pytest.raises(SystemError):
        bench.fit("toy.pth", lambda: Toy(OFTEN, kill=3))
    bench.fit("toy.pth", lambda: Toy(OFTEN))
    bench.fit("other.pth", lambda: Toy(OFTEN))
    assert ids[0] == ids[1] != ids[2]
