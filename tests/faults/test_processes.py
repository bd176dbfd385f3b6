"""Jobs as processes: two at once, signals, and kills at any moment."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.faults.children import Child
from tests.faults.conftest import JOBS, Launch, left
from tests.stages.conftest import World

pytestmark = pytest.mark.slow
IN_A_ROW = 4  # kills before a job is let end


def ended(child: Child) -> str:
    """What a process printed that has to end well."""
    code = child.wait()
    assert code == 0, child.text()
    return child.text()


@pytest.fixture
def begin(tmp_path: Path, int8_world: World) -> Path:
    """A copy of the folder before any job."""
    copy = tmp_path.parent / f"{tmp_path.name}-begin"
    shutil.copytree(tmp_path, copy)
    return copy


def again(begin: Path, tmp_path: Path) -> None:
    """Put the folder back to how it began."""
    shutil.rmtree(tmp_path)
    shutil.copytree(begin, tmp_path)


@pytest.mark.parametrize("job", [job for job in JOBS if job != "pipeline"])  # its steps wait and skip, each by itself
def test_of_two_at_once_one_waits_and_both_are_right(launch: Launch, begin: Path, tmp_path: Path, job: str) -> None:
    ended(launch(job))
    whole = left(tmp_path)
    again(begin, tmp_path)
    first, second = launch(job), launch(job)
    told = [ended(first), ended(second)]
    assert sum(f"{job}: unchanged, skipped" in text for text in told) == 1, told
    assert left(tmp_path) == whole


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_job_that_is_asked_to_end_says_what_it_keeps_and_goes_on(
    launch: Launch, begin: Path, tmp_path: Path, job: str, number: int, code: int
) -> None:
    ended(launch(job))
    whole = left(tmp_path)
    again(begin, tmp_path)
    child = launch(job)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "runs").rglob(".lock")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.signal(number)
    assert child.wait(60) == code, child.text()
    line = child.text().splitlines()[-1]
    assert line.startswith(f"stopped by {signal.Signals(number).name}; kept: ")
    assert f"goes on with: python -m spaceevo +stage={job}" in line
    assert "Traceback" not in child.text()
    ended(launch(job))
    assert left(tmp_path) == whole


@pytest.mark.parametrize("job", JOBS)
def test_jobs_killed_at_any_moment_end_as_undisturbed_ones(
    launch: Launch, begin: Path, tmp_path: Path, job: str, pytestconfig: pytest.Config
) -> None:
    started = time.monotonic()
    ended(launch(job))
    took_s, whole, rng = time.monotonic() - started, left(tmp_path), random.Random(job)
    kills, killed = int(pytestconfig.getoption("--kills")), 0
    while killed < kills:
        again(begin, tmp_path)
        for _ in range(min(IN_A_ROW, kills - killed)):
            started, child = time.monotonic(), launch(job, **({"TMPDIR": "/dev/shm"} if killed % 3 == 0 else {}))
            if not child.kill(rng.uniform(0.1, 1.0) * took_s):
                took_s = min(took_s, time.monotonic() - started)  # it had ended
                break
            killed += 1
        ended(launch(job))
        assert left(tmp_path) == whole
        assert not list(tmp_path.rglob(".*.tmp"))
