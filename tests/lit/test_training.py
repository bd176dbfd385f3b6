"""A run that skips, resumes, stops at a fault or rolls back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from spaceevo.lit.base import QuantConfig, TrainingRun
from torch import Tensor, nn

from spaceevo.artifacts import Layout
from spaceevo.errors import ConfigError
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.digits import write_digits
from spaceevo.lit.guard import DivergenceError, Guard, LossWatch
from spaceevo.lit.module import MultiPassModule, Recipe, Trainer
from spaceevo.nn.loading import read_checkpoint
from spaceevo.space.description import superspace
from spaceevo.teacher import TeacherConfig

RECIPE = Recipe(3, lambda groups: torch.optim.SGD(groups, lr=0.1, weight_decay=0.01))


class Toy(MultiPassModule):
    """One linear layer; its loss is broken at `fault`, unless the rate has been lowered."""

    def __init__(self, recipe: Recipe = RECIPE, fault: int | None = None, kill: int | None = None) -> None:
        super().__init__(recipe, 0)
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 10)
        self.fault, self.kill = fault, kill

    @property
    def network(self) -> nn.Module:
        return self.layer

    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        if self.global_step == self.kill:
            raise SystemError
        broken = self.global_step == self.fault and self.rate_factor == 1
        loss = nn.functional.cross_entropy(self.layer(images.mean((2, 3))), labels)
        yield "loss", loss * float("nan") if broken else loss


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images") / "digits"
    write_digits(root)
    return root


def make_run(digits: Path, folder: Path) -> TrainingRun:
    def trainer(where: Path, epochs: int, callbacks: list[Any]) -> Trainer:
        return Trainer(
            max_epochs=epochs,
            limit_train_batches=2,
            accelerator="cpu",
            logger=False,
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1,
            default_root_dir=where,
        )

    transform = {"size": 8, "resize": 8, "flip": False}
    return TrainingRun(
        data=ImageFolderDataModule(root=digits, transform=transform, batch_size=8, holdout=50),
        superspace=superspace("digits"),
        teacher=TeacherConfig("none", nn.Identity, {}),
        quant=QuantConfig("off"),
        layout=Layout(folder / "checkpoints"),
        output=folder / "run",
        seed=0,
        make_trainer=trainer,
        describe={"lr": 0.1},
        announce=lambda line: lines.append(line),
    )


lines: list[str] = []


def fit(run: TrainingRun, target: Path, module: Toy) -> Tensor:
    lines.clear()
    run.fit("toy", target, lambda: module, lambda _: {"figure": 1.0}, {}, {})
    return read_checkpoint(target, "toy", "").state["weight"]


def test_a_killed_run_resumes_and_ends_alike_and_a_finished_one_is_skipped(digits: Path, tmp_path: Path) -> None:
    run = make_run(digits, tmp_path)
    whole = fit(run, tmp_path / "whole.pth", Toy())
    with pytest.raises(SystemError):
        fit(run, tmp_path / "killed.pth", Toy(kill=3))
    assert not (tmp_path / "killed.pth").exists()
    resumed = fit(run, tmp_path / "killed.pth", Toy())
    assert any("resumes" in line for line in lines)
    assert torch.equal(whole, resumed)
    fit(run, tmp_path / "killed.pth", Toy(kill=0))
    assert "skipped" in lines[0]


def test_a_loss_that_is_no_number_stops_with_the_last_epoch_kept(digits: Path, tmp_path: Path) -> None:
    run = make_run(digits, tmp_path)
    with pytest.raises(DivergenceError, match=r"loss loss is nan at step 3; .*rollback"):
        fit(run, tmp_path / "toy.pth", Toy(fault=3))
    assert list((tmp_path / "run" / "toy").glob("*/last.ckpt"))
    whole = fit(run, tmp_path / "whole.pth", Toy())
    assert any("resumes" in line for line in lines)
    assert torch.equal(whole, fit(make_run(digits, tmp_path / "other"), tmp_path / "again.pth", Toy()))


def test_a_rollback_goes_on_from_the_last_epoch_with_a_smaller_rate(digits: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, guard=Guard(action="rollback", rate_factor=0.25))
    modules = iter([Toy(recipe, fault=3), Toy(recipe, fault=3)])
    rates: list[object] = []

    def make_module() -> Toy:
        module = next(modules)
        module.on_train_epoch_end = lambda: rates.append(module.lr_schedulers().base_lrs[0])  # type: ignore[method-assign]
        return module

    run, target = make_run(digits, tmp_path), tmp_path / "toy.pth"
    lines.clear()
    run.fit("toy", target, make_module, lambda _: {}, {}, {})
    assert target.exists()
    assert any("rolled back, rates now times 0.25" in line for line in lines)
    assert rates == pytest.approx([0.1, 0.025, 0.025])


def test_rollbacks_end(digits: Path, tmp_path: Path) -> None:
    class Hopeless(Toy):
        def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
            yield "loss", self.layer(images.mean((2, 3))).sum() * float("inf")

    recipe, made = replace(RECIPE, guard=Guard(action="rollback", attempts=2)), []

    def make_module() -> Toy:
        made.append(Hopeless(recipe))
        return made[-1]

    with pytest.raises(DivergenceError):
        make_run(digits, tmp_path).fit("toy", tmp_path / "toy.pth", make_module, lambda _: {}, {}, {})
    assert len(made) == 3


def test_an_exponential_mean_of_the_weights_is_what_is_saved(digits: Path, tmp_path: Path) -> None:
    decay, seen = 0.5, []

    class Watched(Toy):
        def on_train_batch_end(self, *arguments: Any) -> None:
            seen.append(self.layer.weight.detach().clone())

    saved = fit(make_run(digits, tmp_path), tmp_path / "toy.pth", Watched(replace(RECIPE, ema_decay=decay)))
    expected = seen[0]
    for weight in seen[1:]:
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(saved, expected, rtol=1e-5, atol=1e-6)


def test_a_loss_many_times_its_mean_has_exploded() -> None:
    watch = LossWatch(Guard(explodes_at=10))
    for step in range(5):
        watch.check({"max": 2.0, "min": 100.0}, step)
    watch.check({"max": 19.0}, 5)
    with pytest.raises(DivergenceError, match=r"max loss is 40 \(its mean was 2\.\d+\) at step 6"):
        watch.check({"max": 40.0}, 6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"action": "ignore"}, "action = ignore; allowed: stop, rollback"),
        ({"explodes_at": 1.0}, "explodes_at = 1.0; allowed: null, or more than 1"),
        ({"rate_factor": 0.0}, "rate_factor = 0.0"),
        ({"attempts": -1}, "attempts = -1; allowed: 0 or more"),
    ],
)
def test_wrong_guards(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Guard(**settings)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"epochs": 0}, {"warmup_epochs": 9}, {"lr_batch_size": 0}, {"schedule_every": 0}, {"ema_decay": 1.0}]
)
def test_wrong_recipes(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"recipe: {next(iter(settings))} = "):
        replace(RECIPE, **settings)


def test_half_precision_clips_gradients_without_their_scale(digits: Path, tmp_path: Path) -> None:
    from pytorch_lightning.plugins.precision import MixedPrecision

    recipe = replace(RECIPE, epochs=1, clip_value=0.01)
    found = []
    for plugin in (None, MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**14))):
        module = Toy(recipe)
        before = module.layer.weight.detach().clone()
        trainer = Trainer(
            max_epochs=1,
            limit_train_batches=2,
            accelerator="cpu",
            plugins=plugin,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, make_run(digits, tmp_path).data)
        found.append(module.layer.weight.detach() - before)
    assert found[0].abs().max() > 1e-4
    assert torch.allclose(found[1], found[0], rtol=0.02, atol=2e-5)
