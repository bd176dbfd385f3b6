"""One process at a time does one work; whoever comes second waits, and is told for whom."""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from io import FileIO
from pathlib import Path

from spaceevo.artifacts.files import MACHINE
from spaceevo.artifacts.parsing import parse_json
from spaceevo.errors import CheckpointError

NOT_TO_BE_WRITTEN = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def sole_worker(lock: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes away from what a lock file stands for; wait for one that has it, and say who that is.

    The kernel opens the lock when its owner ends, however it ends; one that was killed is told of. A folder that this
    process may not write to needs no lock.

    Raises:
        CheckpointError: a link, or what is no file, stands in the lock's place.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(lock, "a+", opener=_opened)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _misplaced(lock) from None
        if error.errno not in NOT_TO_BE_WRITTEN:
            raise
        yield
        return
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _misplaced(lock)
        _lock(file, lock, say)
        if owner := _owner(file):
            say(f"{lock}: {owner} was killed; goes on from what it left")
        _set_owner(file, {"pid": os.getpid(), "host": MACHINE, "started": _now()})
        try:
            yield
        finally:
            _set_owner(file, None)


def _opened(path: str, flags: int) -> int:
    """Open a lock: through a link, another file would be emptied, and a pipe would be waited for."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _misplaced(lock: Path) -> CheckpointError:
    return CheckpointError(f"{lock} is a link or no file, and not what a job left there; remove it")


def _lock(file: FileIO, lock: Path, say: Callable[[str], None]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{lock}: {_owner(file) or 'another process'} is at work; waits until it ends")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems have no locks
        say(f"{lock}: its file system knows no locks ({error.strerror}); start no second job in it")


def _now() -> str:
    return datetime.now().isoformat(" ", "seconds")


def _owner(file: FileIO) -> str:
    """Who locked the file and has not opened it again, in words; nothing where nobody has."""
    file.seek(0)
    try:
        owner = parse_json(file.read())
        return f"process {owner['pid']} on {owner['host']} (since {owner['started']})"
    except (ValueError, KeyError, TypeError):
        return ""


def _set_owner(file: FileIO, owner: dict[str, object] | None) -> None:
    with suppress(OSError):  # on a full disk the lock holds all the same
        file.truncate(0)
        file.write(json.dumps(owner).encode() if owner else b"")
