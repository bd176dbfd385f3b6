"""Jobs killed before chosen file operations, and run again, leave what undisturbed ones do."""

from __future__ import annotations

import math
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from spaceevo.artifacts import Front, SpaceChoice
from spaceevo.artifacts.files import MACHINE
from tests.faults.conftest import JOBS, Start, left
from tests.faults.layer import Killed, faults, killed
from tests.stages.conftest import SPACE, World


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job does the same file operations each time: those of its progress else depend on the clock."""
    monkeypatch.setattr("spaceevo.jobs.recording.SECONDS_A_RECORD", math.inf)


def survives(tmp_path: Path, start: Start, choose: Callable[[int], list[int]]) -> None:
    """Kill a job before some of its operations, each time from the same beginning, and run it again."""
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-begin", symlinks=True)
    with faults(tmp_path) as operations:
        start()
    whole, numbers = left(tmp_path), choose(len(operations))
    assert len(whole) > 3
    for place, number in enumerate(numbers):
        shutil.rmtree(tmp_path)
        shutil.copytree(tmp_path.parent / f"{tmp_path.name}-begin", tmp_path, symlinks=True)
        tempfile.tempdir = "/dev/shm" if place % 3 == 0 else None  # on another file system
        assert killed(tmp_path, number, start)
        start()
        assert left(tmp_path) == whole, operations[number - 1]
        assert not list(tmp_path.rglob(".*.tmp")), operations[number - 1]
    tempfile.tempdir = None


def test_what_a_killed_process_left_beside_an_output_is_removed(tmp_path: Path, start: Callable[..., Start]) -> None:
    half = tmp_path / f"world/made/.made/.a.csv.{MACHINE}-{2**22 + 1}-01234567.tmp"
    half.parent.mkdir(parents=True)
    half.touch()
    start("block_lut")()
    assert not half.exists()


def test_what_a_job_killed_at_its_very_end_left_goes_when_it_is_skipped(
    tmp_path: Path, start: Callable[..., Start], capsys: pytest.CaptureFixture[str]
) -> None:
    start("cost")()
    half = tmp_path / f"runs/cost/.progress.json.{MACHINE}-{2**22 + 1}-01234567.tmp"
    half.touch()
    start("cost")()
    assert "cost: unchanged, skipped" in capsys.readouterr().out
    assert not half.exists()


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("job", ["block_lut", pytest.param("subnet_search", marks=pytest.mark.slow)])
def test_a_job_killed_before_a_file_operation_ends_as_an_undisturbed_one(
    tmp_path: Path, start: Callable[..., Start], job: str
) -> None:
    survives(tmp_path, start(job), lambda count: [2 * count // 3])


@pytest.mark.slow
@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("job", JOBS)
def test_jobs_killed_at_random_operations(
    tmp_path: Path, start: Callable[..., Start], job: str, pytestconfig: pytest.Config
) -> None:
    kills = int(pytestconfig.getoption("--kills"))
    survives(tmp_path, start(job), lambda count: random.Random(job).sample(range(1, count + 1), min(kills, count)))


@pytest.mark.parametrize(
    ("job", "record", "other"),
    [
        ("subnet_search", Front, "seed=5"),
        pytest.param("space_search", SpaceChoice, "latency_constraint=9.0", marks=pytest.mark.slow),
    ],
)
def test_files_of_a_killed_search_are_not_taken_for_those_of_an_earlier_one(
    tmp_path: Path,
    start: Callable[..., Start],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    job: str,
    record: type,
    other: str,
) -> None:
    def die(*_: object) -> None:
        raise Killed

    start(job)()
    whole = left(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(record, "write", die)
        start(job, other)()
    if job == "subnet_search":
        assert not (replace(world.layout, quant="off").subnet_search(SPACE) / "front.json").exists()
    capsys.readouterr()
    start(job)()
    told = capsys.readouterr().out
    assert "runs again, since" in told
    assert "unchanged" not in told
    found = left(tmp_path)
    assert {name: found[name] for name in whole if "population" not in name} == {
        name: value for name, value in whole.items() if "population" not in name
    }
