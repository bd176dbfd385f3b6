"""What is sent to W&B: to a stand-in that notes it, and to the real one offline."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from spaceevo.artifacts import StageResult
from spaceevo.errors import MissingExtraError
from spaceevo.jobs import tracking
from spaceevo.lit.trainer import make_trainer
from spaceevo.report.picture import picture


class NotingWandbLogger:
    """Takes what Lightning's logger takes."""

    noted: dict[str, Any]

    def __init__(self, save_dir: str, name: str) -> None:
        summary: dict[str, Any] = {}
        NotingWandbLogger.noted = {"save_dir": save_dir, "name": name, "summary": summary}
        self.experiment = SimpleNamespace(summary=summary, finish=lambda: self.noted.update(finished=True))

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.noted["params"] = params

    def log_table(self, key: str, columns: list[str], data: list[list[Any]]) -> None:
        self.noted[key] = (columns, data)

    def log_image(self, key: str, images: list[str]) -> None:
        self.noted[key] = images


def config(target: str, **logger: object) -> DictConfig:
    return OmegaConf.create({"logger": {"_target_": target, "name": None, **logger}})


def result(folder: Path) -> StageResult:
    with picture(folder / "scores.png") as (axes,):
        axes.plot([1, 2])
    rows = [{"space": "a", "score": 0.5}, {"space": "b", "score": 0.25, "other": 1}]
    figures = {"score": 0.5, "space": "a", "constraints_ms": [1.0, 2.0], "spaces": rows}
    outputs = {"scores": str(folder / "scores.png"), "table": str(folder / "table.csv")}
    (folder / "table.csv").write_text("name,ms\nfirst,1.5\nsecond,\n")
    return StageResult("space_search", "f", 3, figures, settings={"recipe.t": 0.08}, outputs=outputs)


def test_figures_tables_and_pictures_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)  # as if the package were there
    settings = config("tests.stages.test_tracking.NotingWandbLogger")
    assert tracking.is_tracked(settings)
    tracking.track(settings, ["seed=3"], result(tmp_path), tmp_path, "space_search")
    assert NotingWandbLogger.noted == {
        "save_dir": str(tmp_path),
        "name": "space_search",
        "params": {"recipe.t": 0.08, "seed": 3, "overrides": ["seed=3"]},
        "summary": {"score": 0.5, "space": "a"},
        "spaces": (["space", "score", "other"], [["a", 0.5, None], ["b", 0.25, 1]]),
        "table": (["name", "ms"], [["first", 1.5], ["second", None]]),
        "scores": [str(tmp_path / "scores.png")],
        "finished": True,
    }


def test_a_run_that_training_left_open_is_ended_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    wandb: Any = SimpleNamespace(run="open", finish=lambda: ended.append("open"))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    noting = config("tests.stages.test_tracking.NotingWandbLogger")
    tracking.track(noting, [], result(tmp_path), tmp_path, "space_search")
    assert ended == ["open"]
    tracking.track(noting, [], result(tmp_path), tmp_path, "supernet_fp32", keeps_run=True)
    assert ended == ["open"]  # the job's one network was trained in it
    make_trainer(folder=tmp_path, epochs=1, accelerator="cpu")
    assert ended == ["open", "open"]
    wandb.run = None
    make_trainer(folder=tmp_path, epochs=1, accelerator="cpu")
    assert len(ended) == 2


def test_other_loggers_and_none_are_left_alone() -> None:
    assert not tracking.is_tracked(config("pytorch_lightning.loggers.CSVLogger"))
    assert not tracking.is_tracked(OmegaConf.create({"logger": None}))
    assert not tracking.is_tracked(OmegaConf.create({}))


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"spaceevo\[wandb\]"):
        tracking.is_tracked(config("pytorch_lightning.loggers.WandbLogger"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra wandb is not installed")
def test_the_real_one_works_offline(tmp_path: Path) -> None:
    settings = config("pytorch_lightning.loggers.WandbLogger", project="spaceevo", mode="offline")
    tracking.track(settings, ["seed=3"], result(tmp_path), tmp_path, "space_search")
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/table/spaces_*.table.json"))
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/scores_*.png"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra wandb is not installed")
def test_networks_and_jobs_of_one_process_are_runs_apart(tmp_path: Path) -> None:
    settings = config("pytorch_lightning.loggers.WandbLogger", project="spaceevo", mode="offline")
    for name in ("one", "two"):
        make_trainer(folder=tmp_path, epochs=1, accelerator="cpu")
        logger = instantiate(settings.logger, save_dir=str(tmp_path), name=name)
        logger.log_metrics({"loss": 1.0})
    for _ in range(2):
        tracking.track(settings, ["seed=3"], result(tmp_path), tmp_path, "space_search")
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 4
