"""Jobs to be disturbed, and what they leave."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from spaceevo.artifacts.progress import PROGRESS_FILE
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import set_quant
from spaceevo.space.description import parse_space
from tests.faults.children import Child
from tests.nn.published import published
from tests.stages.conftest import (
    SPACE,
    RunStage,
    World,
    compose,
    int8_world,
    run_stage,
    shared_int8_world,
    shared_world,
    world,
)

__all__ = ["compose", "int8_world", "run_stage", "shared_int8_world", "shared_world", "world"]

RELEASED = "released.pth"
LUT = "recipe.block_lut={samples: 2, calibration_batches: 1, evaluation_batches: 1, evaluation_batch_size: 4}"
FRONT = "recipe.subnet_search.front={population: 3, generations: 1, children: 2}"
LENIENT = "recipe.export={min_agreement: 0, max_mean_difference: 100, calibration_images: 16, repeats: 2}"
TRAINS = [
    "max_epochs=2", "trainer.limit_train_batches=2", "data.batch_size=8", "trainer.accelerator=cpu",
    "recipe.save_minutes=1e-9",
]  # fmt: skip
CHAIN = [
    "debug=fast", "recipe.save_minutes=1e-9", "data.batch_size=8", "trainer.accelerator=cpu",
    "superspace.candidates=[{type: MobileNetV2Res, kernels: [3, 5], expands: [2, 3], act: relu6}]",
    "superspace.stages.stage3.widths=[40,48]", "recipe.subnet_search.tested=1", LUT, LENIENT,
]  # fmt: skip
Start = Callable[[], object]
Launch = Callable[..., Child]
OF_THE_RUN = ("made", "seconds", "checksum", "files_made")
MEASURING = ("export", "benchmark", "pipeline")
"""Jobs some of whose figures are of a clock. `profile` is not among the jobs here: all that it leaves is of one."""
TIMED = ("checksums", "_latency_ms", "_speedup", "_operators_ms", "_whole_ms", "subnets", "_percent", "_tau")
UNLIKE = ("metrics.csv", "profile_onnx.csv", "benchmark.csv", "report.html", PROGRESS_FILE)


def overrides(world: World) -> dict[str, list[str]]:
    """Overrides of each job, few images and small searches."""
    search = ["latency_constraint=5.5", "platform.fixed_latency_ms=0.5", "recipe.space_search.samples=500"]
    space, subnet = f"space={SPACE}", "subnet=min"
    jobs = {
        "cost": [space],
        "predict_latency": [space, "recipe.predict_latency.random_subnets=5"],
        "block_lut": [f"paths.lut={world.root / 'made'}", "block=stage1_0", "window=0", LUT],
        "space_search": [f"paths.lut={world.lut}", *search],
        "subnet_search": [space, "latency_constraint=100", FRONT, "recipe.subnet_search.tested=1"],
        "evaluate": [space, subnet],
        "export": [space, subnet, "quant=deploy", LENIENT],
        "teacher": TRAINS,
        "block_kd": [*TRAINS, "block=stage1_0"],
        "supernet": [*TRAINS, space],
        "finetune": [*TRAINS, space, subnet],
        "benchmark": [space, subnet],
        "fit_latency": [f"source={world.lut}", f"platform.table={world.root / 'fitted.json'}"],
        "convert": ["quant=published", space, f"checkpoint={world.root / RELEASED}"],
    }
    found = {job: [*world.settings, *given] for job, given in jobs.items()}
    own = ("quant=", "paths.checkpoints=")  # a pipeline's steps have schemes, and train networks of their own
    return found | {"pipeline": [*(text for text in world.settings if not text.startswith(own)), *CHAIN]}


JOBS = tuple(overrides(World(Path())))


@pytest.fixture(scope="session")
def released() -> dict[str, object]:
    """A supernet as a released file holds it."""
    torch.manual_seed(0)
    supernet = Supernet(parse_space(SPACE), "published")
    set_quant(supernet, True)
    for spec in (supernet.member.largest, supernet.member.smallest):
        supernet.activate(spec)
        supernet(torch.randn(8, 3, 24, 24))
    return {"state_dict": published(supernet.eval()), "epoch": 50}


@pytest.fixture
def given(int8_world: World, released: dict[str, object]) -> dict[str, list[str]]:
    """Overrides of each job in a world that has INT8 weights too, and a released file."""
    torch.save(released, int8_world.root / RELEASED)
    return overrides(int8_world)


@pytest.fixture
def start(run_stage: RunStage, given: dict[str, list[str]]) -> Callable[..., Start]:
    """Start a job in this process; what it makes lies in the test's folder."""
    return lambda job, *more: lambda: run_stage(job, *given[job], *more)


@pytest.fixture
def launch(given: dict[str, list[str]], tmp_path: Path) -> Iterator[Launch]:
    """Start a job as a process of its own."""
    numbers = count()
    outside = tmp_path.parent / f"{tmp_path.name}-told"
    outside.mkdir()

    def make(job: str, *more: str, **environment: str) -> Child:
        folders = [f"paths.root={tmp_path / 'runs'}", f"hydra.run.dir={tmp_path / 'runs' / job}"]
        words = [f"+stage={job}", *folders, *given[job], *more]
        return Child(words, tmp_path, outside / f"{next(numbers)}.txt", {"OMP_NUM_THREADS": "1", **environment})

    yield make


def left(folder: Path) -> dict[str, object]:
    """Everything in a folder but pictures, logs, timings and hidden files; of results, what a rerun must find too."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if (
            path.is_file()
            and path.suffix not in (".png", ".log", ".yaml")
            and path.name not in UNLIKE
            and not any(part.startswith(".") for part in path.parts)
        ):
            found[name] = path.read_bytes()
        if path.name == "result.json":
            record = json.loads(path.read_text())
            of_the_run = (*OF_THE_RUN, *(TIMED if record["stage"] in MEASURING else ()))
            found[name] = {key: value for key, value in record.items() if not key.endswith(of_the_run)}
    return found
