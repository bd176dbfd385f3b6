"""Jobs to be disturbed, and what they leave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages.conftest import SPACE, RunStage, World, compose, run_stage, shared_world, world

__all__ = ["compose", "run_stage", "shared_world", "world"]

LUT = "recipe.block_lut={samples: 2, calibration_batches: 1, evaluation_batches: 1, evaluation_batch_size: 4}"
FRONT = "recipe.subnet_search.front={population: 3, generations: 1, children: 2}"
JOBS = ("cost", "block_lut", "space_search", "subnet_search", "teacher")
Start = Callable[[], object]
OF_THE_RUN = ("made", "seconds", "checksum", "files_made")


@pytest.fixture
def given(world: World) -> dict[str, list[str]]:
    """Overrides of each job, few images and small searches."""
    trains = ["max_epochs=2", "trainer.limit_train_batches=1", "data.batch_size=8", "trainer.accelerator=cpu"]
    search = ["latency_constraint=5.5", "platform.fixed_latency_ms=0.5", "recipe.space_search.samples=500"]
    jobs = {
        "cost": [f"space={SPACE}"],
        "block_lut": [f"paths.lut={world.root / 'made'}", "block=stage1_0", "window=0", LUT],
        "space_search": [f"paths.lut={world.lut}", *search],
        "subnet_search": [f"space={SPACE}", "latency_constraint=100", FRONT, "recipe.subnet_search.tested=1"],
        "teacher": trains,
    }
    return {job: [*world.settings, *overrides] for job, overrides in jobs.items()}


@pytest.fixture
def start(run_stage: RunStage, given: dict[str, list[str]], world: World) -> Callable[..., Start]:
    """Start a job in this process; what it makes lies in the test's folder."""

    def make(job: str, *more: str) -> Start:
        if job == "teacher":  # the world has one
            shutil.rmtree(world.layout.root / "block_kd/teacher_checkpoint")
        return lambda: run_stage(job, *given[job], *more)

    return make


@pytest.fixture
def launch(given: dict[str, list[str]], tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a job as a process of its own; stdout and stderr can be read as one."""

    def make(job: str, *more: str, **environment: str) -> subprocess.Popen[str]:
        folders = [f"paths.root={tmp_path / 'runs'}", f"hydra.run.dir={tmp_path / 'runs' / job}"]
        return subprocess.Popen(
            [sys.executable, "-u", "-m", "spaceevo", f"+stage={job}", *folders, *given[job], *more],
            cwd=tmp_path,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return make


def left(folder: Path) -> dict[str, object]:
    """Everything in a folder but pictures, logs and hidden files; of results, what does not say how they were made."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if (
            path.is_file()
            and path.suffix not in (".png", ".log", ".yaml")
            and path.name != "metrics.csv"
            and not any(part.startswith(".") for part in path.parts)
        ):
            found[name] = path.read_bytes()
        if path.name == "result.json":
            record = json.loads(path.read_text())
            found[name] = {key: value for key, value in record.items() if key not in OF_THE_RUN}
    return found
