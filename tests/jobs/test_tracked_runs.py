"""What trackers have of a chain: runs, read back from what was written offline."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from spaceevo.errors import DataError
from spaceevo.lit.supernet import SupernetModule
from tests.jobs.conftest import SMALLEST_CHAIN, RunJob
from tests.jobs.wandb_runs import OfflineRun, offline_runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra wandb is not installed"),
]
TRACKERS = ("mlflow", "tensorboard", "wandb")
OWN = re.compile(
    r"_|trainer/global_step|epoch$|epoch/images_per_second|ended|.*_type$"
)  # W&B's own, and what takes time
LOGGED = ("debug=fast", "logger=wandb")
SPACE = "space=digits-012-000"


def runs(folder: Path) -> dict[str, OfflineRun]:
    found = offline_runs(folder)
    by_name = {run.name: run for run in found}
    assert len(by_name) == len(found), [run.name for run in found]  # one run a network or job
    return by_name


def test_every_job_is_one_run_of_the_chains_group_with_its_curve_and_figures(tiny: RunJob, tmp_path: Path) -> None:
    tiny("teacher", *LOGGED)
    tiny("block_kd", *LOGGED, "block=[stage1_0,stage2_0]", "+recipe.lr_by_stage.fp32={stage1: 0.005}")
    tiny("supernet", *LOGGED, SPACE, "max_epochs=2", "recipe.supernet.fp32.validate_every=1")
    tiny("cost", *LOGGED, SPACE, "subnet=[max,min]")
    found = runs(tmp_path)
    assert set(found) == {"teacher_fp32", "block_kd_fp32/stage1_0-stage2_0", "supernet_fp32", "cost"}
    assert {run.group for run in found.values()} == {str(tmp_path / "runs")}
    teacher, blocks, supernet, cost = found.values()

    assert {"train/loss_loss", "train/lr", "epoch/loss", "epoch/lr", "val/top1"} <= teacher.history.keys()
    assert teacher.summary["teacher_top1"] == teacher.history["val/top1"][-1]
    assert teacher.config["recipe.optimizer.lr"] == 0.05
    assert teacher.config["seed"] == 0

    assert blocks.history["val/stage1_0/max_nsr"] == [blocks.summary["stage1_0_max_nsr"]]
    assert blocks.history["train/stage1_lr"] == pytest.approx([0.005])
    assert blocks.history["train/lr"]
    assert blocks.history["train/stage2_0/max_loss"]
    assert blocks.history["epoch/images_per_second"][0] > 0
    assert blocks.summary["blocks/_type"] == "table-file"
    assert blocks.summary["mean_max_nsr"] > 0

    assert len(supernet.history["val/max_top1"]) == 2  # one of each epoch
    assert supernet.summary["supernet_max_fp32_top1"] == supernet.history["val/max_top1"][-1]
    assert supernet.history["train/lr"][0] > supernet.history["train/lr"][-1]
    assert supernet.summary["supernet_fp32_curve/nrows"] == 2
    assert supernet.summary["supernet_fp32_picture/_type"] == "images/separated"
    assert cost.summary["subnets/nrows"] == 2


def test_jobs_of_a_sweep_are_runs_of_their_own(images: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spaceevo", "-m", "+stage=supernet", "superspace=digits", SPACE, *LOGGED]
    given = [
        f"data.root={images}",
        f"paths.root={tmp_path / 'runs'}",
        "seed=1,2",
        "data.holdout=4",
        "data.batch_size=8",
    ]
    environment = {**os.environ, "SPACEEVO_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, *given], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = runs(tmp_path)
    assert {run.config["seed"] for run in found.values()} == {1, 2}
    assert len(found) == 2
    assert all("val/max_top1" in run.history for run in found.values())


def test_a_chain_can_be_read_in_its_runs_alone(tiny: RunJob, tmp_path: Path) -> None:
    tiny("pipeline", *SMALLEST_CHAIN, "logger=wandb")
    found = runs(tmp_path)
    assert {run.group for run in found.values()} == {str(tmp_path / "runs")}
    assert {run.exit_code for run in found.values()} == {0}
    assert {run.summary["ended"] for run in found.values()} == {"well"}
    by_job = {run.job_type: run for run in found.values()}
    kinds = {job: {kind for kind, _, _ in run.made} for job, run in by_job.items()}
    wanted = {
        "teacher_int8": "teacher",
        "block_kd_int8": "block",
        "block_lut": "lut",
        "space_search": "space",
        "supernet_int8": "supernet",
        "subnet_search": "subnet",
        "export": "file",
    }
    assert {job: kinds[job] for job in wanted} == {job: {kind} for job, kind in wanted.items()}
    links = [*wanted]
    for made, read in pairwise(links):  # every step has read what the step before has made, as it was made
        assert by_job[made].made & by_job[read].read, (made, read)
    assert len(by_job["space_search"].history["history/score"]) == by_job["space_search"].summary["evaluations"]
    assert {"lut/nrows", "history/nrows", "spaces/nrows"} <= {
        *by_job["block_lut"].summary,
        *by_job["space_search"].summary,
    }
    assert by_job["subnet_search"].summary["pareto_subnets/nrows"] > 0
    assert by_job["subnet_search"].summary["picture/_type"] == "images/separated"


def test_three_trackers_hold_the_same_scalars(tiny: RunJob, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    held = {}
    for tracker in TRACKERS:
        words = ("debug=fast", f"logger={tracker}", f"paths.root={tmp_path / tracker}", SPACE)
        tiny("supernet", *words, "max_epochs=2", "recipe.supernet.fp32.validate_every=1")
        tiny("cost", *words, "subnet=[max,min]")
        assert "MLFLOW_TRACKING_URI" not in os.environ  # where MLflow leaves this run's place for the next
        read = {"wandb": wandb_scalars, "mlflow": mlflow_scalars, "tensorboard": tensorboard_scalars}[tracker]
        found = {name: values for name, values in read(tmp_path / tracker).items() if not OWN.match(name)}
        held[tracker] = {f"{name} {n}": value for name, values in found.items() for n, value in enumerate(values)}
    assert {"train/max_loss 1", "train/lr 1", "epoch/loss 1", "val/max_top1 1", "mmacs 0"} <= held["wandb"].keys()
    assert held["mlflow"] == pytest.approx(held["wandb"])
    assert held["tensorboard"] == pytest.approx(held["wandb"], rel=1e-6)  # which keeps 32 bits


def wandb_scalars(folder: Path) -> dict[str, list[float]]:
    """Values of every scalar of all runs: histories, and of summaries what is neither a history's last nor of media."""
    found: dict[str, list[float]] = {}
    for run in offline_runs(folder):
        media = {name.rpartition("/")[0] for name in run.summary if name.endswith("/_type")}
        alone = {name: [value] for name, value in run.summary.items() if name not in run.history}
        for name, values in {**run.history, **alone}.items():
            if all(isinstance(value, int | float) for value in values) and name.rpartition("/")[0] not in media:
                found.setdefault(name, []).extend(values)
    return found


def mlflow_scalars(folder: Path) -> dict[str, list[float]]:
    client = resolve_name("mlflow.tracking:MlflowClient")(f"sqlite:///{folder / 'mlflow.db'}")
    found: dict[str, list[float]] = {}
    for run in client.search_runs(
        [each.experiment_id for each in client.search_experiments()], order_by=["start_time"]
    ):
        assert run.info.status == "FINISHED"
        for name in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, name)
            found.setdefault(name, []).extend(metric.value for metric in sorted(history, key=lambda it: it.step))
    return found


def tensorboard_scalars(folder: Path) -> dict[str, list[float]]:
    accumulator = resolve_name("tensorboard.backend.event_processing.event_accumulator:EventAccumulator")
    found: dict[str, list[float]] = {}
    for run in sorted({file.parent for file in folder.rglob("events.out.tfevents.*")}):
        events = accumulator(str(run), {"scalars": 0})
        events.Reload()
        for name in events.Tags()["scalars"]:
            found.setdefault(name, []).extend(event.value for event in events.Scalars(name))
    return found


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_run_that_fails_says_why_and_goes_on_as_the_same_run(
    tracker: str, tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tracker == "mlflow":
        pytest.importorskip("mlflow")
    words = (f"logger={tracker}", SPACE, "max_epochs=2", "trainer.limit_train_batches=2")

    def die(module: object) -> None:
        if getattr(module, "current_epoch", 0) == 1:
            raise DataError("class cat is gone")

    with monkeypatch.context() as patch:
        patch.setattr(SupernetModule, "on_train_epoch_start", die, raising=False)
        with pytest.raises(DataError):
            tiny("supernet", *words)
    ended = {"wandb": wandb_ended, "mlflow": mlflow_ended, "tensorboard": tensorboard_ended}[tracker]
    assert ended(tmp_path / "runs") == [("class cat is gone", False)]
    tiny("supernet", *words)
    assert ended(tmp_path / "runs")[-1] == ("well", True)
    assert len(set(identities(tracker, tmp_path / "runs"))) == 1


def wandb_ended(folder: Path) -> list[tuple[str, bool]]:
    return [(run.summary["ended"], run.exit_code == 0) for run in offline_runs(folder)]


def mlflow_runs(folder: Path) -> list[Any]:
    client = resolve_name("mlflow.tracking:MlflowClient")(f"sqlite:///{folder / 'mlflow.db'}")
    return [*client.search_runs([each.experiment_id for each in client.search_experiments()])]


def mlflow_ended(folder: Path) -> list[tuple[str, bool]]:
    return [(run.data.tags["ended"], run.info.status == "FINISHED") for run in mlflow_runs(folder)]


def tensorboard_ended(folder: Path) -> list[tuple[str, bool]]:
    accumulator = resolve_name("tensorboard.backend.event_processing.event_accumulator:EventAccumulator")
    found = []
    for run in {file.parent for file in folder.rglob("events.out.tfevents.*")}:
        events = accumulator(str(run))
        events.Reload()
        texts = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("ended/text_summary")]
        found += [(text, text == "well") for text in texts]
    return found


def identities(tracker: str, folder: Path) -> list[str]:
    """What tells the runs of a tracker apart."""
    if tracker == "wandb":
        return [file.stem.rpartition("-")[2] for file in folder.rglob("run-*.wandb")]
    if tracker == "mlflow":
        return [run.info.run_id for run in mlflow_runs(folder)]
    return [str(file.parent) for file in folder.rglob("events.out.tfevents.*")]
