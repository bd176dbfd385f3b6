"""Real small and read-only file systems, and little memory: one line, exit code 1, and the same command goes on."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.children import FREE_MIB
from tests.faults.conftest import Launch, left
from tests.faults.test_processes import ended
from tests.stages.conftest import World

pytestmark = pytest.mark.slow
WRITE_MUCH = ("teacher", "subnet_search", "export")


@contextmanager
def mounted(folder: Path, kind: str, *options: str) -> Iterator[None]:
    """Mount a file system there, which only root may; skips where it may not."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *options, kind, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fault_of(launch: Launch, job: str, **environment: str) -> str:
    """The line in which a job ends that must fail."""
    child = launch(job, **environment)
    assert child.wait() == 1, child.text()
    assert "Traceback" not in child.text()
    line = child.text().splitlines()[-1]
    assert line.startswith("error: ")
    assert len(line) < 500
    return line


def undisturbed(launch: Launch, job: str, tmp_path: Path) -> dict[str, object]:
    """What a job leaves; the folder is then as it was before."""
    begin = tmp_path.parent / f"{tmp_path.name}-begin"
    shutil.copytree(tmp_path, begin)
    ended(launch(job))
    whole = left(tmp_path)
    shutil.rmtree(tmp_path)
    shutil.copytree(begin, tmp_path)
    return whole


@pytest.mark.parametrize("job", WRITE_MUCH)
def test_a_small_disk_is_told_and_a_larger_one_goes_on(
    launch: Launch, int8_world: World, tmp_path: Path, job: str
) -> None:
    whole = undisturbed(launch, job, tmp_path)
    with mounted(tmp_path / "runs", "tmpfs", "-t", "tmpfs", "-o", "size=16k"):
        line = fault_of(launch, job)
        assert re.search(r"No space left on device \(\d+ bytes are left in .*\); make room", line), line
        subprocess.run(["mount", "-o", "remount,size=64m", str(tmp_path / "runs")], check=True)
        ended(launch(job))
        assert left(tmp_path) == whole


@pytest.mark.parametrize("job", ["cost", "block_lut", "teacher"])
def test_a_read_only_disk_is_told_and_a_writable_one_goes_on(
    launch: Launch, int8_world: World, tmp_path: Path, job: str
) -> None:
    whole = undisturbed(launch, job, tmp_path)
    with mounted(tmp_path / "runs", "tmpfs", "-t", "tmpfs", "-o", "ro"):
        line = fault_of(launch, job)
        assert "Read-only file system" in line
        assert str(tmp_path / "runs") in line
        subprocess.run(["mount", "-o", "remount,rw", str(tmp_path / "runs")], check=True)
        ended(launch(job))
        assert left(tmp_path) == whole


@pytest.mark.parametrize("job", ["teacher", "block_lut"])
def test_little_memory_is_told_and_more_goes_on(launch: Launch, int8_world: World, tmp_path: Path, job: str) -> None:
    whole = undisturbed(launch, job, tmp_path)
    assert "memory is full" in fault_of(launch, job, **{FREE_MIB: "12"})
    ended(launch(job))
    assert left(tmp_path) == whole
