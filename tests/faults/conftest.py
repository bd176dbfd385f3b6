"""Jobs to be disturbed, and what they leave."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages.conftest import SPACE, RunStage, World, compose, run_stage, shared_world, world

__all__ = ["compose", "run_stage", "shared_world", "world"]

LUT = "recipe.block_lut={samples: 2, calibration_batches: 1, evaluation_batches: 1, evaluation_batch_size: 4}"
FRONT = "recipe.subnet_search.front={population: 3, generations: 1, children: 2}"
Start = Callable[[], object]
OF_THE_RUN = ("made", "seconds", "checksum", "files_made")


@pytest.fixture
def start(run_stage: RunStage, world: World) -> Callable[..., Start]:
    """Start a job on few images; what it makes lies in the test's folder."""
    given = {
        "cost": [f"space={SPACE}"],
        "block_lut": [f"paths.lut={world.root / 'made'}", "block=stage1_0", "window=0", LUT],
        "space_search": [f"paths.lut={world.lut}", "latency_constraint=5.5", "platform.fixed_latency_ms=0.5"],
        "subnet_search": [f"space={SPACE}", "latency_constraint=100", FRONT, "recipe.subnet_search.tested=1"],
        "teacher": ["max_epochs=2", "trainer.limit_train_batches=1", "data.batch_size=8", "trainer.accelerator=cpu"],
    }
    given["space_search"].append("recipe.space_search.samples=500")

    def make(job: str, *more: str) -> Start:
        if job == "teacher":  # the world has one
            shutil.rmtree(world.layout.root / "block_kd/teacher_checkpoint")
        return lambda: run_stage(job, *world.settings, *given[job], *more)

    return make


def left(folder: Path) -> dict[str, object]:
    """Everything in a folder but pictures and hidden files; of results, what does not say how they came about."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and path.suffix != ".png" and not any(part.startswith(".") for part in path.parts):
            found[name] = path.read_bytes()
        if path.name == "result.json":
            record = json.loads(path.read_text())
            found[name] = {key: value for key, value in record.items() if key not in OF_THE_RUN}
    return found
