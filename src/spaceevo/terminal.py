"""What the program shows on the terminal: lines, tables and progress bars, all by one console."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
"""Prints every text as it is: a command's `[max,min]` is no markup of rich's."""


SECONDS_A_LINE = 30.0
"""Between two lines of progress where the output is no terminal."""


class Watcher(Protocol):
    """Takes down what a job tells."""

    def progressed(self, key: str, name: str, done: float, total: float | None) -> None:
        """Take down how far the task `key` is, in steps; `name` is shown."""
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


def tell_trouble(line: str) -> None:
    """Let whoever watches the job know what went wrong and was got over."""
    for watcher in watchers[-1:]:
        watcher.troubled(line)


class _Bars(Progress):
    """Shows progress bars, and lets whoever watches the job know."""

    def _tell(self, task_id: TaskID) -> None:
        task = next(task for task in self.tasks if task.id == task_id)
        tell_progress(f"{id(self)}-{task_id}", task.description, task.completed, task.total)

    def update(
        self,
        task_id: TaskID,
        *,
        total: float | None = None,
        completed: float | None = None,
        advance: float | None = None,
        description: str | None = None,
        visible: bool | None = None,
        refresh: bool = False,
        **fields: Any,
    ) -> None:
        """Change a task."""
        super().update(
            task_id,
            total=total,
            completed=completed,
            advance=advance,
            description=description,
            visible=visible,
            refresh=refresh,
            **fields,
        )
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count what is done."""
        super().advance(task_id, advance)
        self._tell(task_id)


class _Lines(_Bars):
    """Tells progress in a line from time to time, for files and logs."""

    told = 0.0  # when, by the monotonic clock

    def start(self) -> None:
        """Count the time from now on."""
        self.told = time.monotonic()

    def stop(self) -> None:
        """Leave nothing behind."""

    def refresh(self) -> None:
        """Print a line of the last task that has begun, if it is time to."""
        now, begun = time.monotonic(), [task for task in self.tasks if task.completed and not task.finished]
        if not begun or now - self.told < SECONDS_A_LINE:
            return
        self.told, task = now, begun[-1]
        total = "" if task.total is None else f" of {task.total:g}"
        console.print(f"  {task.description}: {task.completed:g}{total}")

    def _tell(self, task_id: TaskID) -> None:
        super()._tell(task_id)
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
    return _Lines(console=console, auto_refresh=False)


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
