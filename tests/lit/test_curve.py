"""The curve of a training: what it records, where it goes, and that looking on changes nothing."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from tests.lit.test_training import digits, make_data  # noqa: F401  (a fixture)
from torch import Tensor, nn

from spaceevo.errors import CheckpointError
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.module import Callback, MultiPassModule, Recipe, Trainer
from spaceevo.lit.training import Trainee, Training
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.loading import read_checkpoint

RECIPE = Recipe(3, lambda groups: torch.optim.SGD(groups, lr=0.1))


class Normed(MultiPassModule):
    """A layer under batch norm and dropout: it ends otherwise where modes, statistics or generators are disturbed."""

    def __init__(self, recipe: Recipe, kill: int | None = None) -> None:
        super().__init__(recipe, 0)
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 10, 8), nn.BatchNorm2d(10), nn.Dropout(0.5), nn.Flatten())
        self.kill = kill

    @property
    def network(self) -> nn.Module:
        return self.layers

    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        if self.global_step == self.kill:
            raise SystemError
        yield "max", nn.functional.cross_entropy(self.layers(images), labels)


class Bench:
    """Trains such a layer with loggers, and measures it in a way that leaves nothing as it was."""

    def __init__(self, folder: Path, data: ImageFolderDataModule) -> None:
        self.folder = folder
        self.said: list[str] = []
        from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger  # torchvision's shim goes first

        self.loggers = [CSVLogger(folder, "csv", "0"), TensorBoardLogger(str(folder), "tensorboard", "0")]
        self.training = Training(data, folder / "run", 0, self.make_trainer, self.said.append)
        self.fault = False

    def make_trainer(self, folder: Path, epochs: int, callbacks: Sequence[Callback], run_id: str) -> Trainer:
        settings: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(
            max_epochs=epochs, limit_train_batches=2, accelerator="cpu", logger=self.loggers, callbacks=[*callbacks],
            reload_dataloaders_every_n_epochs=1, default_root_dir=folder, log_every_n_steps=1, **settings,
        )  # fmt: skip

    def figures(self, module: MultiPassModule) -> dict[str, float]:
        """Measure, at the expense of everything but the weights."""
        if self.fault:
            raise CheckpointError("no numbers")
        module.network.eval()
        torch.manual_seed(123)
        for buffer in module.network.buffers():
            buffer.zero_()
        return {"top1": 10.0 + module.current_epoch}

    def fit(self, every: int | None, kill: int | None = None) -> dict[str, Tensor]:
        trainee = Trainee("net", self.folder / "net.pth", {"recipe.lr": 0.1}, CheckpointMeta())
        recipe = replace(RECIPE, validate_every=every)
        self.training.fit(trainee, lambda: Normed(recipe, kill), self.figures)
        return dict(read_checkpoint(self.folder / "net.pth", "net", "").state)


@pytest.fixture
def bench(digits: Path, tmp_path: Path) -> Bench:  # noqa: F811
    return Bench(tmp_path / "curve", make_data(digits))


def test_looking_on_changes_nothing_and_every_epoch_is_a_row(bench: Bench, digits: Path) -> None:  # noqa: F811
    weights = bench.fit(every=1)
    unseen = Bench(bench.folder / "unseen", make_data(digits)).fit(every=None)
    assert all(torch.equal(weights[name], unseen[name]) for name in weights if "running" not in name)
    rows = bench.training.curves["net"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["top1"] for row in rows] == [11, 12, 13]
    assert rows[0]["lr"] == pytest.approx(0.1 * 0.75)  # cosine of a third of the steps
    assert rows[-1]["lr"] == pytest.approx(0)
    assert "net: epoch 2 of 3: top1 12" in bench.said


def test_a_resumed_run_has_all_rows(bench: Bench) -> None:
    with pytest.raises(SystemError):
        bench.fit(every=1, kill=5)
    bench.fit(every=1)
    assert [row["top1"] for row in bench.training.curves["net"]] == [11, 12, 13]


def test_a_training_that_is_skipped_has_the_curve_of_its_run(bench: Bench) -> None:
    """The job may have been killed between the weights and its result."""
    bench.fit(every=1)
    rows = bench.training.curves.pop("net")
    bench.fit(every=1)
    assert "net: unchanged, skipped" in bench.said[-1]
    assert bench.training.curves == {"net": rows}
    (record,) = bench.folder.glob("run/net/curve.json")
    for damaged in (record.read_bytes().replace(b'"net": "', b'"net": "0'), b"{}", b"", None):
        bench.training.curves.clear()
        record.unlink() if damaged is None else record.write_bytes(damaged)
        bench.fit(every=1)
        assert bench.training.curves == {}


def test_networks_trained_together_are_kept_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One killed between the weights of the first and of the last trains neither again."""
    trainees = [Trainee(name, bench.folder / f"{name}.pth", {"recipe.lr": 0.1}, CheckpointMeta()) for name in "ab"]
    asked: list[str] = []
    steps: list[int] = []

    class Counted(Normed):
        def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
            steps.append(self.global_step)
            return super().passes(images, labels, rng)

    def fit() -> None:
        def make(names: Sequence[str]) -> MultiPassModule:
            asked.append("".join(names))
            return Counted(RECIPE)

        bench.training.fit_together("ab", trainees, make, lambda module: dict.fromkeys("ab", bench.figures(module)))

    def killed(target: Path, *rest: Any) -> None:
        if target.stem == "b":
            raise SystemError
        save_checkpoint(target, *rest)

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr("spaceevo.lit.training.save_checkpoint", killed)
        fit()
    fit()
    assert asked == ["ab", "ab"]
    assert steps == [*range(6)]
    assert (bench.folder / "b.pth").exists()


def test_every_logger_has_losses_rates_figures_and_settings(bench: Bench) -> None:
    bench.fit(every=2)
    with (bench.folder / "csv/0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    named = {key: [float(row[key]) for row in rows if row[key]] for key in rows[0]}
    assert len(named["train/max_loss"]) == 6
    assert named["train/lr"][0] == pytest.approx(0.1)
    assert len(named["epoch/loss"]) == 3
    assert named["val/top1"] == [12, 13]
    assert "recipe.lr: 0.1" in (bench.folder / "csv/0/hparams.yaml").read_text()
    found = scalars(bench.folder / "tensorboard/0")
    assert {name: len(values) for name, values in found.items() if name in named} == {
        name: len(values) for name, values in named.items() if name != "step"
    }


def test_a_figure_that_cannot_be_had_on_the_way_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fault = True
    with pytest.raises(CheckpointError):  # the last measurement decides
        bench.fit(every=2)
    assert "net: epoch 2: no numbers" in bench.said


def scalars(folder: Path) -> dict[str, list[float]]:
    """Values of every scalar in TensorBoard's files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [event.value for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
