"""Keeps in a file how far a job is and what went wrong, for those who look at it from elsewhere."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from spaceevo.artifacts.progress import PROGRESS_FILE, JobProgress, State, Task
from spaceevo.artifacts.work import Amount, Spent
from spaceevo.errors import CheckpointError, Stopped, failure_line
from spaceevo.terminal import console, duration, processor_seconds, watchers

SECONDS_A_RECORD = 2.0  # between two records of progress; what goes wrong is recorded at once
MOST_TASKS, MOST_TROUBLES = 20, 50  # kept, the latest


class Recorder:
    """Writes what a job tells of itself."""

    def __init__(self, folder: Path, job: str, command: str) -> None:
        self.path = folder / PROGRESS_FILE
        now = time.time()
        self.started = processor_seconds()
        self.record = _going_on(self.path, JobProgress(job, command, began=now, told=now))
        self.tasks: dict[str, Task] = {}
        self.spent: dict[str, Spent] = {}
        self.written = 0.0

    def progressed(self, key: str, name: str, done: float, total: float | None) -> None:
        """Take down how far a task is; one that starts again begins anew."""
        now, known = time.time(), self.tasks.get(key)
        if known is None or done < known.done:
            self.tasks.pop(key, None)
            known = Task(name, done, total, now, done, now)
        self.tasks[key] = replace(known, name=name, done=done, total=total, told=now)
        if now - self.written >= SECONDS_A_RECORD:
            self.write()

    def expects(self, amounts: Mapping[str, Amount], foreseen: Mapping[str, float]) -> tuple[float, float]:
        """Take down how much work there is, and the seconds that one time of each kind was foreseen to take.

        Returns seconds, and those of processors, that the job took before it was interrupted, and says that they count.
        """
        self.record = replace(self.record, amounts=amounts, foreseen=foreseen)
        self.write()  # whoever watches knows them from the start, however long nothing is told
        if self.record.earlier_seconds >= 1:
            console.print(
                f"{self.record.stage}: counts the {duration(self.record.earlier_seconds)} before its interruption"
            )
        return self.record.earlier_seconds, self.record.earlier_processor_seconds

    def worked(self, kind: str, seconds: float, processor_seconds: float, times: int = 1) -> None:
        """Take down what work took."""
        self.spent[kind] = self.spent.get(kind, Spent(kind)).more(times, seconds, processor_seconds)

    def troubled(self, line: str) -> None:
        """Take down what went wrong and was got over."""
        self.record = replace(self.record, troubles=(*self.record.troubles, line)[-MOST_TROUBLES:])
        self.write()

    def write(self, state: State = "running", error: str = "") -> None:
        """Write the record; a disk that is full, or may not be written to, is told of by the job itself."""
        self.written = time.time()
        tasks = tuple(self.tasks.values())[-MOST_TASKS:]
        spent = tuple(self.spent.values())
        self.record = replace(self.record, told=self.written, tasks=tasks, spent=spent, state=state, error=error)
        self.record = replace(self.record, processor_seconds=processor_seconds() - self.started)
        with suppress(OSError):
            self.record.write(self.path)


def _going_on(path: Path, record: JobProgress) -> JobProgress:
    """Return the record with what the same command had spent, where the one left there tells that it did not end."""
    try:
        left = JobProgress.read(path)
    except (CheckpointError, OSError):
        return record
    if left.state == "done" or (left.stage, left.command) != (record.stage, record.command):
        return record
    on_processors = left.earlier_processor_seconds + left.processor_seconds
    return replace(record, earlier_seconds=left.seconds, earlier_processor_seconds=on_processors)


@contextmanager
def recorded(folder: Path, job: str, command: str) -> Iterator[Recorder]:
    """Record what a job tells while this lasts, and how it ends; jobs within it have records of their own."""
    recorder = Recorder(folder, job, command)
    recorder.write()
    watchers.append(recorder)
    try:
        yield recorder
    except Stopped:
        recorder.write("stopped")
        raise
    except BaseException as error:
        recorder.write("failed", failure_line(error))
        raise
    else:
        recorder.write("done")
    finally:
        watchers.pop()
