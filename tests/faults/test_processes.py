"""Jobs as processes: two at once, signals, and kills at any moment."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import JOBS, left
from tests.stages.conftest import World

Launch = Callable[..., subprocess.Popen[str]]
pytestmark = pytest.mark.slow


def ended(process: subprocess.Popen[str]) -> str:
    """What a process printed that has to end well."""
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return told


@pytest.fixture
def begin(tmp_path: Path, world: World) -> Path:
    """A copy of the folder before any job; the teacher is yet to be trained."""
    copy = tmp_path.parent / f"{tmp_path.name}-begin"
    shutil.copytree(tmp_path, copy)
    return copy


def again(begin: Path, tmp_path: Path) -> None:
    """Put the folder back to how it began."""
    shutil.rmtree(tmp_path)
    shutil.copytree(begin, tmp_path)


@pytest.mark.parametrize("job", JOBS)
def test_of_two_at_once_one_waits_and_both_are_right(launch: Launch, begin: Path, tmp_path: Path, job: str) -> None:
    ended(launch(job, "force=true"))
    whole = left(tmp_path)
    again(begin, tmp_path)
    first, second = launch(job), launch(job)
    told = [ended(first), ended(second)]
    assert sum("unchanged, skipped" in text for text in told) == 1
    assert left(tmp_path) == whole


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_that_is_asked_to_end_keeps_its_last_epoch(
    launch: Launch, begin: Path, tmp_path: Path, number: int, code: int
) -> None:
    few = ("max_epochs=3", "force=true")
    ended(launch("teacher", *few))
    whole = left(tmp_path)
    again(begin, tmp_path)
    process = launch("teacher", "max_epochs=300", "force=true")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "runs").rglob("last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == code, told
    line = told.splitlines()[-1]
    assert line.startswith(f"stopped by {signal.Signals(number).name}; kept: ")
    assert "last.ckpt" in line
    assert "goes on with: python -m spaceevo +stage=teacher" in line
    ended(launch("teacher", *few))
    assert left(tmp_path) == whole


@pytest.mark.parametrize("job", JOBS)
def test_jobs_killed_at_any_moment_end_as_undisturbed_ones(
    launch: Launch, begin: Path, tmp_path: Path, job: str, pytestconfig: pytest.Config
) -> None:
    started = time.monotonic()
    ended(launch(job, "force=true"))
    took_s, whole, rng = time.monotonic() - started, left(tmp_path), random.Random(job)
    again(begin, tmp_path)
    for number in range(int(pytestconfig.getoption("--kills"))):
        elsewhere = {"TMPDIR": "/dev/shm"} if number % 3 == 0 else {}
        process = launch(job, **elsewhere)
        time.sleep(rng.uniform(0.2, 1.0) * took_s)
        process.kill()
        process.communicate()
    ended(launch(job))
    assert left(tmp_path) == whole
    assert not list(tmp_path.rglob(".*.tmp"))
