"""Readers of what runs keep for themselves and for those who watch: progress, costs, budgets, states, caches."""

from __future__ import annotations

import json
from dataclasses import asdict
from io import FileIO
from pathlib import Path

import numpy as np

from spaceevo.artifacts import read_sealed_json, write_sealed_json
from spaceevo.artifacts.locks import _owner
from spaceevo.artifacts.progress import PROGRESS_FILE, STEPS_FILE, JobProgress, StepList, Task
from spaceevo.artifacts.records import parse_record
from spaceevo.artifacts.work import Amount, Spent
from spaceevo.errors import CheckpointError
from spaceevo.jobs.budget import BUDGET_FILE, Fitted, Scaled
from spaceevo.jobs.costs import Cost
from spaceevo.lit.curve import CURVE_FILE, CurveRecord
from spaceevo.lit.training import ROLLBACKS_FILE, RUN_FILE, Trainee, _State
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.platforms.answers import read_answer
from spaceevo.report.status import duration, going_on, pipeline_of, watch
from spaceevo.report.status_page import rows, write_status_page
from spaceevo.search.lut import LutSamples, _read_cache, _write_cache
from spaceevo.stages.profile_timings import Timed
from spaceevo.stages.profile_timings import _Record as Timings
from tests.faults.mutations import damaged_bytes, damaged_json
from tests.faults.readers import Reader

COST = Cost(100.0, 90.0, 512.0, 3.0, {"training steps": 80.0}, "2 training steps")


def _progress(path: Path) -> None:
    tasks = (Task("fp32", 5, 20, 1.0, 0, 30.0), Task("INT8", 1, None, 2.0, 0, 20.0))
    amounts, spent = {"steps": Amount(20, 32)}, (Spent("steps", 5, 20.0, 19.0, 1, 5.0, 4.0),)
    JobProgress(
        "supernet", "python -m spaceevo", 1.0, 30.0, tasks=tasks, amounts=amounts, spent=spent, troubles=("a",)
    ).write(path)


def _watched(path: Path) -> None:
    """Show how far a run is that keeps the record, as `+stage=status` does; a broken one is told of there."""
    for job in ("supernet", "pipeline"):
        (path.parent / job).mkdir(exist_ok=True)
        (path.parent / job / path.name).write_bytes(path.read_bytes())
    found, pipeline = watch(path.parent), pipeline_of(path.parent)
    rows(found)
    write_status_page(path.with_name("status.html"), path.parent, found, going_on(found, pipeline), None)
    JobProgress.read(path)


def _cost(path: Path) -> None:
    both = Cost.sum([Cost.read(path), COST])
    duration(both.seconds), both.figures()


def _budget(path: Path) -> None:
    fitted = Fitted.read(path)
    assert fitted.words is not None
    fitted.print()


def _fitted(path: Path) -> None:
    Fitted(0.5, "0123", 0.4, (Scaled("recipe.supernet.fp32.epochs", 20, 3),), ("export",)).write(path)


def _state(path: Path) -> None:
    """Read the file as both records of a training that was killed; what cannot be read of them is made anew."""
    trainee = Trainee("a", path, {"lr": 0.1}, CheckpointMeta())
    folder = _State(path.parent, [trainee]).folder
    folder.mkdir(exist_ok=True)
    for name in (RUN_FILE, ROLLBACKS_FILE):
        (folder / name).write_bytes(path.read_bytes())
    state = _State(path.parent, [trainee])
    state.begin()
    assert state.run_id
    if state.rollbacks != 1:
        raise CheckpointError("begins anew")


def _lock(path: Path) -> None:
    with FileIO(path) as file:
        _owner(file)


def _answer(path: Path) -> None:
    path.write_text(json.dumps({"timings": {"block 0": [0.5, 1.1], "block 1": [1.5, 1.2]}}))


def _cache(path: Path) -> None:
    samples = LutSamples(np.ones(5, np.float32), np.ones(5, np.float32))
    _write_cache(path, "key", [samples, samples])


READERS_OF_RUNS = {
    "progress": Reader(PROGRESS_FILE, _progress, damaged_json, _watched),
    "steps": Reader(STEPS_FILE, StepList(("a", "b"), ("a", "b")).write, damaged_json, StepList.read),
    "cost": Reader("cost.json", COST.write, damaged_json, _cost),
    "budget": Reader(BUDGET_FILE, _fitted, damaged_json, _budget),
    "curve": Reader(CURVE_FILE, CurveRecord({"a": "01"}, ({"epoch": 1.0},)).write, damaged_json, CurveRecord.read),
    "state of a training": Reader(
        "state.json", lambda path: write_sealed_json(path, {"id": "0123", "rollbacks": 1}), damaged_json, _state
    ),
    "timings": Reader(
        "timings.json",
        lambda path: write_sealed_json(path, asdict(Timings("0123", {"blocks": Timed(1.0, {"a": [(1.0, 1.1)]})}))),
        damaged_json,
        lambda path: parse_record(Timings, read_sealed_json(path), path),
    ),
    "lock": Reader(
        "a.lock",
        lambda path: path.write_text(json.dumps({"pid": 1, "host": "a", "started": "today"})),
        damaged_json,
        _lock,
    ),
    "answer of another machine": Reader(
        "answer", _answer, damaged_json, lambda path: read_answer(path.read_bytes(), "raspberrypi")
    ),
    "sorted tables": Reader("tables.npz", _cache, damaged_bytes, lambda path: _read_cache(path, "key")),
}
