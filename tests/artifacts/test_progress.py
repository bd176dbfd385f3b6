"""What a record of progress tells whoever reads it: when a task ends, and what became of the process."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from spaceevo.artifacts.progress import JobProgress, Task

RECORD = JobProgress("supernet", "python -m spaceevo +stage=supernet", began=100.0, told=150.0)


@pytest.mark.parametrize(
    ("task", "ends"),
    [
        (Task("a", done=10, total=100, began=1000.0, began_at=0, told=1020.0), 1200.0),
        (Task("resumed", done=60, total=100, began=1000.0, began_at=50, told=1020.0), 1100.0),
        (Task("begun", done=0, total=100, began=1000.0, began_at=0, told=1000.0), None),
        (Task("endless", done=5, total=None, began=1000.0, began_at=0, told=1010.0), None),
    ],
)
def test_a_task_ends_as_fast_as_it_went(task: Task, ends: float | None) -> None:
    assert task.ends == ends


def test_the_task_at_hand_is_the_last_told_of_that_is_not_finished() -> None:
    finished = Task("features", done=9, total=9, began=0, began_at=0, told=50.0)
    older, newer = (
        Task(name, done=1, total=9, began=0, began_at=0, told=told) for name, told in (("a", 10), ("b", 20))
    )
    assert replace(RECORD, tasks=(newer, older, finished)).task == newer
    assert replace(RECORD, tasks=(finished,)).task == finished


def test_a_process_that_is_gone_was_killed() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert replace(RECORD, process=gone.pid).fate == "killed"
    assert replace(RECORD, process=os.getpid()).fate == "running"
    assert replace(RECORD, process=gone.pid, state="failed").fate == "failed"


def test_a_process_elsewhere_is_known_by_what_it_tells() -> None:
    assert replace(RECORD, host="elsewhere", told=time.time() - 599).fate == "running"
    assert replace(RECORD, host="elsewhere", told=time.time() - 601).fate == "silent"


def test_a_record_is_read_as_written(tmp_path: Path) -> None:
    record = replace(RECORD, tasks=(Task("a", 1, None, 2, 3, 4),), troubles=("rolled back",), error="full")
    record.write(tmp_path / "progress.json")
    assert JobProgress.read(tmp_path / "progress.json") == record
