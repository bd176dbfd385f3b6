"""Images in tar files: their places are listed once, their bytes are read where they lie."""

import os
import posixpath
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spaceevo.artifacts import atomic_path, cache_folder, fingerprint
from spaceevo.errors import DataError
from spaceevo.lit.broken import shown
from spaceevo.lit.content import file_state

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
KEPT_FROM = 10_000  # Files in a tar from which on its list of members is kept in the cache folder
MOST_LINKS = 40  # that a path may lead through, as in Linux
Place = tuple[int, int]  # Offset and size of a file's bytes
NOWHERE = (-1, 0)  # Place of a link that leads to no file of the tar


class TarImage(NamedTuple):
    """Names an image inside a tar file: its bytes lie at `offset`."""

    tar: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        """Write both names, for messages."""
        return f"{self.tar}/{self.name}"

    @property
    def is_missing(self) -> bool:
        """Whether it is a link that leads to no file of the tar."""
        return self.offset < 0

    def read(self) -> BytesIO:
        """Read the image file's bytes; any number of threads and processes may read at once."""
        if self.is_missing:
            raise FileNotFoundError("it is a link to what the tar does not hold")
        return BytesIO(os.pread(_descriptor(self.tar, os.getpid()), self.size, self.offset))


@lru_cache(maxsize=16)
def _descriptor(tar: str, process: int) -> int:
    """An open file of this process."""
    return os.open(tar, os.O_RDONLY)


def tar_files(path: Path) -> list[TarImage]:
    """List all files in a tar in its order; those of large ones, which take minutes to walk, are kept.

    Names are without `./`. A link counts as the file, or as the files of the folder, that it leads to.

    Raises:
        DataError: no uncompressed tar file, or a truncated one.
    """
    kept = cache_folder("tars") / f"{fingerprint([str(path.resolve()), file_state(path)])}.npz"
    # a list that is absent, of another version or damaged is made anew
    with suppress(Exception), kept.open("rb") as stored, np.load(stored) as content:
        names = os.fsdecode(content["names"].tobytes()).split("\0")
        return _images(path, names, content["offsets"], content["sizes"])
    try:
        with tarfile.open(path, "r:") as tar:
            found = _places(tar)
            _check_end(path, tar.offset)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{shown(path)} is truncated or no uncompressed tar file ({error})") from error
    offsets, sizes = np.array(list(found.values()), np.int64).reshape(-1, 2).T
    if len(found) >= KEPT_FROM:
        with suppress(OSError), atomic_path(kept) as temporary, temporary.open("wb") as file:
            text = np.frombuffer(os.fsencode("\0".join(found)), np.uint8)
            np.savez(file, names=text, offsets=offsets, sizes=sizes)
    return _images(path, list(found), offsets, sizes)


def _check_end(path: Path, end: int) -> None:
    """Raise a `tarfile.ReadError` where a tar lacks the zeros after its last member, or more follows them."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("its end is missing")
        while chunk := file.read(2**20):
            if any(chunk):
                raise tarfile.ReadError("more follows its end")


def _images(path: Path, names: list[str], offsets: np.ndarray, sizes: np.ndarray) -> list[TarImage]:
    rows = zip(names, offsets.tolist(), sizes.tolist(), strict=True)
    return [TarImage(str(path), name, offset, size) for name, offset, size in rows]


def _places(tar: tarfile.TarFile) -> dict[str, Place]:
    """Where the bytes of every file lie, by name, links followed."""
    files: dict[str, Place] = {}
    links: dict[str, str] = {}
    names: dict[str, None] = {}
    for member in tar:
        name = posixpath.normpath(member.name).lstrip("/")
        names[name] = None  # a later member of the same name replaces an earlier one
        files.pop(name, None), links.pop(name, None)
        if member.isfile():
            files[name] = member.offset_data, member.size
        elif member.islnk() or member.issym():
            folder = posixpath.dirname(name) if member.issym() else ""
            links[name] = posixpath.normpath(posixpath.join(folder, member.linkname)).lstrip("/")
    found: dict[str, Place] = {}
    for name in names:
        if name in files:
            found[name] = files[name]
        elif name in links:
            found |= _linked(name, files, links)
    return found


def _linked(name: str, files: Mapping[str, Place], links: Mapping[str, str]) -> dict[str, Place]:
    """The file, or the files of the folder, that a link leads to, by their names through the link."""
    target = _followed(name, links)
    if target in files:
        return {name: files[target]}
    if f"{name}/".startswith(f"{target}/"):  # a folder that the link lies in
        return {}
    start = f"{target}/"
    inside = {file: _followed(file, links) for file in (*files, *links) if file.startswith(start)}
    found = {f"{name}/{file.removeprefix(start)}": files[real] for file, real in inside.items() if real in files}
    return found or {name: NOWHERE}


def _followed(path: str, links: Mapping[str, str]) -> str:
    """The path that is meant where some of its folders or itself are links; empty if they lead in a circle."""
    real, parts = "", path.split("/")
    followed = 0
    while parts:
        real = posixpath.normpath(posixpath.join(real, parts.pop(0)))
        if real in links:
            real, parts = "", [*links[real].split("/"), *parts]
            followed += 1
            if followed > MOST_LINKS:
                return ""
    return real
