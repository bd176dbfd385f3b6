"""What W&B has of a chain: its runs, read back from what it wrote offline."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.conftest import RunJob
from tests.jobs.wandb_runs import OfflineRun, offline_runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra wandb is not installed"),
]
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
