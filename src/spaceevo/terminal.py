"""What the program shows on the terminal: lines, tables and progress bars, all by one console."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
"""Prints every text as it is: a command's `[max,min]` is no markup of rich's."""


SECONDS_A_LINE = 30.0
"""Between two lines of progress, whatever they are of."""
T = TypeVar("T")


def processor_seconds() -> float:
    """Tell what this process and the children that it saw the end of have taken of processors."""
    return time.process_time() + sum(os.times()[2:4])


class _Clock:
    """Says when the next line of progress may be told, so that all of them together are no flood."""

    def __init__(self) -> None:
        self.told = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time for a line; who asks tells one then. Of several processes the first alone tells."""
        now = time.monotonic()
        is_due = now - self.told >= SECONDS_A_LINE and os.environ.get("RANK", "0") == "0"
        self.told = now if is_due else self.told
        return is_due


clock = _Clock()


def duration(seconds: float) -> str:
    """Write a time as people say it: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def told(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield the items; tell in a line from time to time how many are done, and the time left if there is a `total`."""
    begun = time.monotonic()
    for done, item in enumerate(items):
        if done and clock.is_due():
            left_s = (time.monotonic() - begun) / done * ((total or done) - done)
            _tell(what, done, total, left_s if total else None)
        yield item


def _tell(what: str, done: float, total: float | None, left_s: float | None) -> None:
    of = "" if total is None else f" of {total:g}"
    console.print(f"  {what}: {done:g}{of}{'' if left_s is None else f', {duration(left_s)} left'}")


class Watcher(Protocol):
    """Takes down what a job tells."""

    def progressed(self, key: str, name: str, done: float, total: float | None) -> None:
        """Take down how far the task `key` is, in steps; `name` is shown."""
        ...

    def worked(self, kind: str, seconds: float, processor_seconds: float, times: int = 1) -> None:
        """Take down what work of a kind, so many times of it, took by the clock and of processors."""
        ...

    def troubled(self, line: str) -> None:
        """Take down what went wrong and was got over."""
        ...


watchers: list[Watcher] = []
"""Of the jobs at work, the innermost last: it is told."""


def tell_progress(key: str, name: str, done: float, total: float | None) -> None:
    """Let whoever watches the job know how far a task is."""
    for watcher in watchers[-1:]:
        watcher.progressed(key, name, done, total)


def tell_work(kind: str, seconds: float, processor_seconds: float, times: int = 1) -> None:
    """Let whoever watches the job know what work took, so many times of it."""
    for watcher in watchers[-1:]:
        watcher.worked(kind, seconds, processor_seconds, times)


@contextmanager
def doing(kind: str, times: int = 1) -> Iterator[None]:
    """Let whoever watches the job know what the work that is done meanwhile, all of one kind, took."""
    seconds, on_processors = time.monotonic(), processor_seconds()
    yield
    tell_work(kind, time.monotonic() - seconds, processor_seconds() - on_processors, times)


def tell_trouble(line: str) -> None:
    """Let whoever watches the job know what went wrong and was got over."""
    for watcher in watchers[-1:]:
        watcher.troubled(line)


class _Bars(Progress):
    """Shows progress bars, and lets whoever watches the job know."""

    def _moved(self, task_id: TaskID) -> None:
        """Tell how far a task has come."""
        task = next(task for task in self.tasks if task.id == task_id)
        tell_progress(f"{id(self)}-{task_id}", task.description, task.completed, task.total)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task."""
        super().update(task_id, **changes)
        self._moved(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count what is done."""
        super().advance(task_id, advance)
        self._moved(task_id)


class _Lines(_Bars):
    """Tells progress in a line from time to time, for files and logs."""

    def start(self) -> None:
        """Show nothing yet."""

    def stop(self) -> None:
        """Leave nothing behind."""

    def refresh(self) -> None:
        """Print a line of the last task that has begun, if it is time to."""
        begun = [task for task in self.tasks if task.completed and not task.finished]
        if begun and clock.is_due():
            task = begun[-1]
            _tell(task.description, task.completed, task.total, task.time_remaining)

    def _moved(self, task_id: TaskID) -> None:
        super()._moved(task_id)
        self.refresh()


@contextmanager
def quietly() -> Iterator[None]:
    """Print nothing meanwhile."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def progress() -> Progress:
    """Make a progress bar with the time left; where the output is no terminal, a line from time to time."""
    if console.is_terminal:
        return _Bars(console=console, transient=True)
    return _Lines(console=console, auto_refresh=False, get_time=lambda: time.monotonic())


def figure_table(title: str, figures: Mapping[str, object]) -> Table:
    """Make a table of names and values; long values are folded, not cut, so that they can be copied."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in figures.items():
        table.add_row(name, _text(value))
    return table


def print_rows(rows: Iterable[Mapping[str, object]], columns: Mapping[str, str], title: str = "") -> None:
    """Print these columns of rows as a table.

    Args:
        rows: key → value; floats are shown with four significant digits, long texts folded, None as nothing.
        columns: key → heading, in order.
        title: the line above the table.
    """
    table = Table(title=title or None, title_justify="left")
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_text(row.get(key)) for key in columns))
    console.print(table)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
