"""Jobs keep records of how far they are and of what went wrong."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spaceevo.artifacts.progress import JobProgress
from spaceevo.artifacts.work import TRAINED
from spaceevo.errors import ConfigError, DataError, Stopped
from spaceevo.jobs.recording import recorded
from spaceevo.lit.curve import STEPS, Curve
from spaceevo.terminal import progress, tell_progress, tell_trouble
from tests.jobs.conftest import RunJob

COMMAND = "python -m spaceevo +stage=supernet"


def record(folder: Path) -> JobProgress:
    return JobProgress.read(folder / "progress.json")


def test_bars_are_recorded_and_so_is_the_end(tmp_path: Path) -> None:
    with recorded(tmp_path, "supernet", COMMAND):
        assert record(tmp_path).fate == "running"
        with progress() as bar:
            task = bar.add_task("subnets", total=8)
            bar.update(task, completed=3, description="subnets, best 4")
            bar.advance(task)
    found = record(tmp_path)
    assert (found.state, found.command) == ("done", COMMAND)
    assert [(task.name, task.began_at, task.done, task.total) for task in found.tasks] == [("subnets, best 4", 3, 4, 8)]


@pytest.mark.parametrize(
    ("error", "state", "line"),
    [
        (ConfigError("seed = x; allowed: numbers"), "failed", "seed = x; allowed: numbers"),
        (KeyError("wrong"), "failed", "KeyError: 'wrong'"),
        (Stopped(15), "stopped", ""),
    ],
)
def test_how_a_job_failed_is_recorded(tmp_path: Path, error: BaseException, state: str, line: str) -> None:
    with pytest.raises(type(error)), recorded(tmp_path, "supernet", COMMAND):
        raise error
    assert (record(tmp_path).state, record(tmp_path).error) == (state, line)


def test_time_before_an_interruption_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"time": 1000.0, "processors": 50.0}
    monkeypatch.setattr("spaceevo.jobs.recording.time.time", lambda: clock["time"])
    monkeypatch.setattr("spaceevo.jobs.recording.processor_seconds", lambda: clock["processors"])

    def works(command: str = COMMAND) -> tuple[float, float]:
        with recorded(tmp_path, "supernet", command) as recorder:
            before = recorder.expects({}, {})
            clock["time"] += 300
            clock["processors"] += 200
            if len(interruptions) < 2:
                interruptions.append(Stopped(15))
                raise interruptions[-1]
        return before

    interruptions: list[Stopped] = []
    for _ in range(2):
        with pytest.raises(Stopped):
            works()
        clock["time"] += 5000  # it did not run
    assert record(tmp_path).seconds == 600
    assert works() == (600, 400)
    assert record(tmp_path).seconds == 900
    assert works() == (0, 0)  # it has ended before
    interruptions.clear()
    with pytest.raises(Stopped):
        works()
    interruptions.append(Stopped(15))
    assert works(f"{COMMAND} seed=1") == (0, 0)


def test_a_job_that_goes_on_tells_all_that_it_took(tiny: RunJob, tmp_path: Path) -> None:
    space = "space=digits-222-000"
    command = tiny("cost", space).command
    (file,) = (tmp_path / "runs").rglob("progress.json")
    left = JobProgress("cost", command, 1000.0, 1300.0, state="stopped", processor_seconds=200.0)
    left.write(file)
    result = tiny("cost", space, "force=true")
    assert 300 <= result.seconds < 330
    assert 200 <= result.processor_seconds < 230


def test_the_innermost_job_is_told_and_troubles_are_kept(tmp_path: Path) -> None:
    with recorded(tmp_path / "pipeline", "pipeline", COMMAND), recorded(tmp_path / "step", "supernet", COMMAND):
        tell_trouble("loss is nan; rolled back")
        tell_progress("a", "steps", 1, 2)
    assert record(tmp_path / "step").troubles == ("loss is nan; rolled back",)
    assert len(record(tmp_path / "step").tasks) == 1
    assert record(tmp_path / "pipeline").troubles == ()
    assert record(tmp_path / "pipeline").tasks == ()


def test_training_tells_its_steps(tiny: RunJob, tmp_path: Path) -> None:
    tiny("supernet", "space=digits-222-000", "max_epochs=2")
    found = record(tmp_path / "runs" / "supernet_fp32")
    assert found.state == "done"
    assert [(task.name, task.done, task.total) for task in found.tasks] == [("supernet_fp32, steps", 2, 2)]
    told = {kind: amount.times for kind, amount in found.amounts.items()}
    assert told == {"training steps": 2, "evaluations": 1, "saved states": 2} == {s.kind: s.times for s in found.spent}
    assert found.amounts["training steps"].size == TRAINED * 4 * 8  # passes
    assert found.amounts["evaluations"].size == 2 * (8 + 8)  # both corners are recalibrated and tested


@pytest.mark.parametrize(("steps", "first"), [(2, 1), (5, 2), (40, 3)])
def test_the_first_steps_warm_up_together_and_all_are_told(tmp_path: Path, steps: int, first: int) -> None:
    curve = Curve(lambda module: {}, print)
    trainer: Any = SimpleNamespace(num_training_batches=steps, max_epochs=1, current_epoch=0)
    module = SimpleNamespace(recipe=SimpleNamespace(validate_every=None))
    with recorded(tmp_path, "block_kd", COMMAND) as recorder:
        curve.on_train_start(trainer, module)
        curve.on_train_epoch_start(trainer, module)
        for step in range(steps):
            curve._tell_work(9, is_last=step + 1 == steps)
    spent = recorder.spent[STEPS]
    assert (spent.times, spent.first_times) == (9 * steps, 9 * first)


def test_a_job_that_fails_early_says_why(tiny: RunJob, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        tiny("supernet", "space=digits-222-000", f"data.root={tmp_path}")
    found = record(tmp_path / "runs" / "supernet_fp32")
    assert found.state == "failed"
    assert str(tmp_path) in found.error
