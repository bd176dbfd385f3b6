"""What is sent to trackers: to a stand-in that notes it, and to the real ones offline."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from spaceevo.artifacts import Layout, StageResult
from spaceevo.errors import DataError, MissingExtraError, Stopped
from spaceevo.jobs import tracking
from spaceevo.jobs.lineage import artefacts
from spaceevo.jobs.plan import PlanJob
from spaceevo.lit.trainer import make_trainer
from spaceevo.report.picture import picture
from spaceevo.stages.cost import CostJob
from spaceevo.stages.job import Commands, Job, Outcome, Workspace
from spaceevo.stages.status import StatusJob


class NotingWandbLogger:
    """Takes what Lightning's logger takes."""

    noted: dict[str, Any]

    def __init__(self, save_dir: str, name: str) -> None:
        summary: dict[str, Any] = {}
        NotingWandbLogger.noted = {"save_dir": save_dir, "name": name, "summary": summary}
        self.experiment = SimpleNamespace(
            summary=summary, finish=lambda exit_code: self.noted.update(exit_code=exit_code)
        )

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.noted["params"] = params

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.noted.setdefault("metrics", []).append((step, metrics))

    def log_table(self, key: str, columns: list[str], data: list[list[Any]]) -> None:
        self.noted[key] = (columns, data)

    def log_image(self, key: str, images: list[str]) -> None:
        self.noted[key] = images


def config(target: str, **logger: object) -> DictConfig:
    logging = {"_target_": target, "name": None, **logger}
    return OmegaConf.create({"logger": logging, "paths": {"root": "runs"}})


class LoggedJob(Job[Any]):
    """A job whose one network left a run open."""

    name = "space_search"
    main_figure = "score"
    keeps_run = True
    identity: dict[str, Any] = {"recipe.t": 0.08}

    def __init__(self, folder: Path) -> None:
        super().__init__(
            None, Workspace(Layout(folder), folder, folder, folder, Commands(), lambda component: component)
        )
        self.open_logger = NotingWandbLogger(str(folder), "open")

    def work(self) -> Outcome:
        raise NotImplementedError


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
        "summary": {"score": 0.5, "space": "a", "ended": "well"},
        "spaces": (["space", "score", "other"], [["a", 0.5, None], ["b", 0.25, 1]]),
        "table": (["name", "ms"], [["first", 1.5], ["second", None]]),
        "scores": [str(tmp_path / "scores.png")],
        "exit_code": 0,
    }


def test_files_of_a_folder_are_one_table_and_too_many_rows_are_thinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    monkeypatch.setattr(tracking, "MOST_ROWS", 4)
    for name, count in (("stage1_0_0", 2), ("stage2_0_0", 5)):
        (tmp_path / f"{name}.csv").write_text("\n".join(["ms", *map(str, range(count))]))
    (tmp_path / ".made.csv").write_text("not,a,table\n1,2,3\n")
    found = StageResult("block_lut", "f", 3, {"files": 2}, outputs={"lut": str(tmp_path)})
    noting = config("tests.stages.test_tracking.NotingWandbLogger")
    tracking.track(noting, [], found, tmp_path, "block_lut")
    rows = [["stage1_0_0", 0.0], ["stage2_0_0", 0.0], ["stage2_0_0", 2.0], ["stage2_0_0", 4.0]]
    assert NotingWandbLogger.noted["lut"] == (["file", "ms"], rows)
    assert "lut: 7 rows; the tracker is told one of 2" in capsys.readouterr().out


def test_rows_by_evaluation_are_a_curve_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    history = [{"evaluation": n, "space": "a", "score": n / 8} for n in (1, 2)]
    found = StageResult("space_search", "f", 3, {"history": history})
    noting = config("tests.stages.test_tracking.NotingWandbLogger")
    tracking.track(noting, [], found, tmp_path, "space_search")
    assert NotingWandbLogger.noted["metrics"] == [(1, {"history/score": 0.125}), (2, {"history/score": 0.25})]


def test_a_run_that_training_left_open_is_ended_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    wandb: Any = SimpleNamespace(run="open", finish=lambda: ended.append("open"))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    noting = config("tests.stages.test_tracking.NotingWandbLogger")
    tracking.track(noting, [], result(tmp_path), tmp_path, "space_search")
    assert ended == ["open"]
    tracking.track(noting, [], result(tmp_path), tmp_path, "supernet_fp32", LoggedJob(tmp_path))
    assert ended == ["open"]  # the job's one network was trained in it
    make_trainer(folder=tmp_path, epochs=1, accelerator="cpu")
    assert ended == ["open", "open"]
    wandb.run = None
    make_trainer(folder=tmp_path, epochs=1, accelerator="cpu")
    assert len(ended) == 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("class cat has no images"), "class cat has no images"),
        (ZeroDivisionError("1 / 0"), "ZeroDivisionError: 1 / 0"),
        (Stopped(15), "stopped by signal 15"),
    ],
)
def test_a_run_that_fails_is_ended_with_the_line_of_its_error(
    error: BaseException, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    noting = config("tests.stages.test_tracking.NotingWandbLogger")
    with pytest.raises(type(error)), tracking.failure_tracked(noting, ["seed=3"], LoggedJob(tmp_path)):
        raise error
    assert NotingWandbLogger.noted["name"] == "open"
    assert NotingWandbLogger.noted["summary"] == {"ended": line}
    assert NotingWandbLogger.noted["exit_code"] == 1


def test_a_tracker_that_fails_too_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    monkeypatch.setattr(tracking, "_tracker", lambda *_: 1 / 0)
    noting = config("tests.stages.test_tracking.NotingWandbLogger")
    with pytest.raises(DataError), tracking.failure_tracked(noting, [], LoggedJob(tmp_path)):
        raise DataError("class cat has no images")
    assert "its tracker does not know of this end: ZeroDivisionError" in capsys.readouterr().out


def test_files_of_a_chain_are_named_by_where_they_lie(tmp_path: Path) -> None:
    paths = [
        "checkpoints/supernet_training/digits-222-000-align0/checkpoint.pth",
        "checkpoints/block_kd/search/digits/best.json",
        "checkpoints/block_kd/teacher_checkpoint/resnet10/lsq.pth",
        "checkpoints/block_kd/digits/stage1_0/checkpoint.pth",
        "checkpoints/search_subnet/digits-222-000/subnets/0_int8.pth",
        "checkpoints/search_subnet/digits-222-000/subnets/1_int8.pth",
        "checkpoints/search_subnet/digits-222-000/front.json",
        "block_lut/ort_cpu/stage1_0_0.csv",
        "export/subnet_int8.onnx",
        "export/profile_onnx.csv",
        "block_kd_fp32/stage1_0/training.png",
    ]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    found = [(it.kind, it.name) for it in artefacts([tmp_path / path for path in paths], tmp_path)]
    assert found == [
        ("supernet", "checkpoints.supernet_training.digits-222-000-align0.checkpoint.pth"),
        ("space", "checkpoints.block_kd.search.digits.best.json"),
        ("teacher", "checkpoints.block_kd.teacher_checkpoint.resnet10.lsq.pth"),
        ("block", "checkpoints.block_kd.digits.stage1_0.checkpoint.pth"),
        ("subnet", "checkpoints.search_subnet.digits-222-000.subnets"),
        ("subnet", "checkpoints.search_subnet.digits-222-000.front.json"),
        ("lut", "block_lut.ort_cpu"),
        ("file", "export.subnet_int8.onnx"),
    ]
    (lut,) = artefacts([tmp_path / "block_lut/ort_cpu"], tmp_path)
    (tmp_path / "block_lut/ort_cpu/.cache").mkdir()
    (tmp_path / "block_lut/ort_cpu/.cache/tables.npz").write_text("of the reader's own")
    (part,) = artefacts([tmp_path / "block_lut/ort_cpu/stage1_0_0.csv"], tmp_path)
    assert lut == part  # what one job made, as a whole, another read in parts
    (tmp_path / "block_lut/ort_cpu/stage1_0_0.csv").write_text("other")
    (changed,) = artefacts([lut.path], tmp_path)
    assert (changed.name, changed.digest == lut.digest) == (lut.name, False)


def test_other_loggers_and_none_are_left_alone() -> None:
    assert not tracking.is_tracked(config("pytorch_lightning.loggers.CSVLogger"))
    assert not tracking.is_tracked(OmegaConf.create({"logger": None}))
    assert not tracking.is_tracked(OmegaConf.create({}))


@pytest.mark.parametrize(("job", "is_kept"), [(StatusJob, False), (PlanJob, False), (CostJob, True)])
def test_a_look_is_no_run(job: type[Job[Any]], is_kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    wandb = config("pytorch_lightning.loggers.WandbLogger")
    assert tracking.is_tracked(wandb, job.__new__(job)) is is_kept


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    for target, extra in (
        ("pytorch_lightning.loggers.WandbLogger", "wandb"),
        ("pytorch_lightning.loggers.TensorBoardLogger", "tensorboard"),
        ("spaceevo.lit.mlflow.mlflow_logger", "mlflow"),
    ):
        with pytest.raises(MissingExtraError, match=rf"spaceevo\[{extra}\]"):
            tracking.is_tracked(config(target))


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
