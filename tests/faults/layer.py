"""A layer of file operations that fails: before a chosen one the process is as good as killed, or the disk is full."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

Fault = Callable[[str], BaseException]  # From the path of the operation
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


class Killed(BaseException):
    """The process is dead: nothing that it would still do to files happens."""


class Layer:
    """Sees what Python's audit hooks tell of files below a folder that are opened to be written, moved or removed.

    Attributes:
        names: the operations so far.
    """

    def __init__(self) -> None:
        self.folder = ""
        self.names: list[str] = []
        self.first = sys.maxsize
        self.fault: Fault = Killed
        self.events: Sequence[str] = EVENTS

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.folder and self._is_seen(event, arguments):
            self.names.append(f"{event} {arguments[0]!s}")
            if len(self.names) >= self.first and event in self.events:
                raise self.fault(str(arguments[0]))

    def _is_seen(self, event: str, arguments: tuple[object, ...]) -> bool:
        writes = event in EVENTS
        if event == "open":
            flags = arguments[2]
            writes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
        path = arguments[0]
        return writes and isinstance(path, str | Path) and str(path).startswith(self.folder)


LAYER = Layer()
HOOKED: list[Layer] = []  # audit hooks cannot be taken back, so there is one


@contextmanager
def faults(
    folder: Path, first: int = sys.maxsize, fault: Fault = Killed, events: Sequence[str] = EVENTS
) -> Iterator[list[str]]:
    """Let operations below a folder fail from the `first` on, all or those of some kinds; yield the list of all."""
    if LAYER not in HOOKED:
        sys.addaudithook(LAYER)
        HOOKED.append(LAYER)
    LAYER.folder, LAYER.names, LAYER.first, LAYER.fault, LAYER.events = str(folder), [], first, fault, events
    try:
        yield LAYER.names
    finally:
        LAYER.folder = ""


def killed(folder: Path, number: int, work: Callable[[], object]) -> bool:
    """Do work that is killed before so manyth a file operation; tell whether it got that far."""
    try:
        with faults(folder, number):
            work()
    except Killed:
        for path in folder.rglob(f".*-{os.getpid()}-*.tmp"):  # of a process that lives no more
            path.rename(path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")))
        return True
    return False
