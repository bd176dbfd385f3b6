"""Files that are written whole or not at all, and hashes of what they hold."""

import csv
import errno
import hashlib
import json
import os
import re
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spaceevo.artifacts.parsing import parse_json, require_file
from spaceevo.errors import CheckpointError

Plain = Any  # A tree of what JSON can hold: null, booleans, numbers, texts, lists and mappings from texts
MACHINE = re.sub(r"\W", "_", socket.gethostname())
TEMPORARY = re.compile(r"\..+\.(\w+)-(\d+)-[0-9a-f]{8}\.tmp")  # who writes is part of the name: machine and process


def cache_folder(name: str) -> Path:
    """Return the folder `name` of what can be made again, in `$SPACEEVO_CACHE`; it need not exist."""
    return Path(os.environ.get("SPACEEVO_CACHE") or "~/.cache/spaceevo").expanduser() / name


@contextmanager
def atomic_path(path: Path, *, is_cached: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`, else remove it.

    A link is written through to what it names. An `OSError` of the writing names `path`. The name of a file that
    `is_cached` may be lost in a power cut.
    """
    path = Path(os.path.realpath(path)) if path.is_symlink() else path  # of one that leads to itself, itself
    temporary = path.with_name(f".{path.name}.{MACHINE}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less what the umask takes away
        try:
            yield temporary
            flush(temporary)
            temporary.replace(path)
            with suppress(OSError):  # not every file system does this for a folder
                if not is_cached:
                    flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None  # a full disk names none, other faults the temporary one
        raise


def flush(path: Path) -> None:
    """Have the disk keep what was written to a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path, depth: int = 0) -> None:
    """Remove what killed processes of this machine left half-written, in a folder and so many levels below it."""
    for path in [path for level in range(depth + 1) for path in folder.glob("*/" * level + ".*.tmp")]:
        owner = TEMPORARY.fullmatch(path.name)
        if owner is not None and owner[1] == MACHINE and not _is_alive(int(owner[2])):
            with suppress(OSError):  # on a disk that may not be written to it harms nothing
                path.unlink()


def sweep_job(output: Path, made: Iterable[Path]) -> None:
    """Remove what killed processes left half-written in a job's folder, beside what it made elsewhere and in caches."""
    sweep(output, depth=2)
    sweep(cache_folder(""), depth=1)
    for folder in {path if path.is_dir() else path.parent for path in made}:
        sweep(folder, depth=1)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def append_line(path: Path, line: str) -> None:
    """Add a line to a file; what a full disk let through of it is taken back, and the `OSError` names the file."""
    content = f"{line}\n".encode()
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            file.truncate(size)
            error.filename = str(path)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Plain) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json_text(value))


def json_text(value: Plain) -> str:
    """Return `value` as indented JSON."""
    return json.dumps(value, indent=2, default=str) + "\n"


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, atomically; columns are the rows' keys in order of appearance, None is an empty field."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_json(path: Path) -> Plain:
    """Read a JSON file; one that is not valid is a `CheckpointError`."""
    try:
        require_file(path)
        return parse_json(path.read_text(encoding="utf-8-sig"))  # editors may put a byte order mark
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); delete it and run its stage again") from error


def fingerprint(value: Plain) -> str:
    """Hash a tree of plain values; equal trees, whatever their key order, give equal hashes."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
