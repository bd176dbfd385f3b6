"""Hashes of image files: equal images give equal hashes, wherever they lie and whenever they were copied.

Every byte is read once; an index remembers each file's hash by its state, so that later runs ask the file system only.
"""

import errno
import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

from spaceevo.artifacts import cache_folder
from spaceevo.lit.broken import NAMED, cannot_be_read
from spaceevo.terminal import progress

TOLD_FROM = 2000  # Files to read from which on a progress bar is shown


def file_digests(paths: Iterable[str | Path]) -> dict[str, str]:
    """Return the SHA-256 of each file's content, by its path; a `BrokenImageError` names those that cannot be read."""
    names = list(dict.fromkeys(map(str, paths)))
    try:
        states = {path: file_state(path) for path in names}
        known = _known(states.values())
        unread = {path: state for path, state in states.items() if state not in known}
        read = _read(list(unread))
    except OSError as error:
        broken = islice((path for path in names if not _opens(path)), NAMED)
        raise cannot_be_read(list(broken) or [error.filename], error.strerror or str(error)) from error
    _remember({unread[path]: digest for path, digest in read.items()})
    return {path: read.get(path) or known[state] for path, state in states.items()}


def file_state(path: str | Path) -> str:
    """Return what changes with a file's content: its place on the disk, size and times.

    The time of the last change of its inode is among them, which no program can set.
    """
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def _read(paths: list[str]) -> dict[str, str]:
    with progress() as bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = pool.map(_digest, paths)
        if len(paths) >= TOLD_FROM:
            digests = iter(bar.track(digests, total=len(paths), description="reading the images once"))
        return dict(zip(paths, digests, strict=True))


def _opens(path: str) -> bool:
    try:
        file_state(path)
        Path(path).open("rb").close()
    except OSError:
        return False
    return True


def _digest(path: str) -> str:
    with Path(path).open("rb") as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
        except OSError as error:  # one of reading names no file
            raise OSError(error.errno, error.strerror, str(path)) from error


def _index() -> sqlite3.Connection:
    folder = cache_folder("images")
    folder.mkdir(parents=True, exist_ok=True)
    index = sqlite3.connect(folder / "hashes.sqlite", timeout=30)
    index.execute("CREATE TABLE IF NOT EXISTS hashes (state TEXT PRIMARY KEY, digest TEXT NOT NULL)")
    return index


def _known(states: Iterable[str]) -> Mapping[str, str]:
    """What the index knows; nothing where it cannot be read."""
    found: dict[str, str] = {}
    with suppress(OSError, sqlite3.Error), closing(_index()) as index:
        for state in states:
            row = index.execute("SELECT digest FROM hashes WHERE state = ?", (state,)).fetchone()
            if row is not None:
                found[state] = str(row[0])
    return found


def _remember(digests: Mapping[str, str]) -> None:
    """Add to the index, where it can be written: without it everything is read again."""
    if digests:
        with suppress(OSError, sqlite3.Error), closing(_index()) as index, index:
            index.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?)", digests.items())
