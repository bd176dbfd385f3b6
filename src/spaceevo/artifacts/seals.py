"""Checksums within files, by which damage is seen wherever the file is read: in torch's zip archives and in JSON."""

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from spaceevo.artifacts.files import Plain, json_text, read_json, write_text
from spaceevo.errors import CheckpointError

MARK = b"sha256 "
LENGTH = len(MARK) + 64  # bytes of the archive's comment, in which the seal stands
SEAL = re.compile(re.escape(LENGTH.to_bytes(2, "little") + MARK) + rb"[0-9a-f]{64}")
FURTHEST = 2**16 + LENGTH + 2  # bytes from an archive's end to its seal, if as much was appended as unzipping bears
FIRST_LINE = re.compile(r'\{\n  "(.*)": "(.{64})",\n')


def seal(path: Path) -> None:
    """Append to a zip archive without a comment, such as `torch.save` writes, a checksum of all before it."""
    with path.open("rb+") as file:
        file.seek(-2, 2)
        file.write(LENGTH.to_bytes(2, "little"))  # of the comment that follows
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, 2)
        file.write(MARK + digest.encode())


def is_as_sealed(path: Path) -> bool | None:
    """Tell whether an archive is as it was sealed; None where it has no seal, as others write them."""
    size = path.stat().st_size
    if size < LENGTH + 2:
        return None
    with path.open("rb") as file:
        file.seek(-LENGTH - 2, 2)
        length, comment = file.read(2), file.read()
        # A changed bit may hit the seal's own mark, or the length of the comment, but not both.
        if length != LENGTH.to_bytes(2, "little") and not comment.startswith(MARK):
            file.seek(max(0, size - FURTHEST))
            return False if SEAL.search(file.read()) else None  # something was appended
        file.seek(0)
        digest = hashlib.sha256()
        for start in range(0, size - LENGTH, 2**20):
            digest.update(file.read(min(2**20, size - LENGTH - start)))
    return comment == MARK + digest.hexdigest().encode()


def is_whole(path: Path) -> bool:
    """Tell whether a zip archive is there and as it was written."""
    if not path.is_file():
        return False
    sealed = is_as_sealed(path)
    if sealed is not None:
        return sealed
    try:
        with zipfile.ZipFile(path) as archive:  # of an earlier version: each part has a checksum of its own
            return archive.testzip() is None
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError):
        return False


def write_sealed_json(path: Path, value: Mapping[str, Plain]) -> None:
    """Write a mapping as indented JSON whose first field is a checksum of all other lines, atomically."""
    rest = json_text(value).removeprefix("{\n")
    write_text(path, f'{{\n  "checksum": "{_digest(rest)}",\n{rest}')


def read_sealed_json(path: Path) -> Plain:
    """Read what `write_sealed_json` wrote, less the checksum; JSON that has none is taken as it is.

    Raises:
        CheckpointError: the file is other than it was written, or is no JSON.
    """
    content, text = read_json(path), path.read_text(encoding="utf-8-sig")
    found = FIRST_LINE.match(text)
    if found is None and not (isinstance(content, dict) and "checksum" in content):
        return content
    if found is None or found[1] != "checksum" or found[2] != _digest(text[found.end() :]):
        raise CheckpointError(f"{path} is damaged, or was edited: its checksum differs; make it again")
    return {name: value for name, value in content.items() if name != "checksum"}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
