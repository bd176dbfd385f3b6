"""Images in tar files: `ILSVRC2012_img_train.tar` and `ILSVRC2012_img_val.tar`, members `x/<class>/<image>`."""

import os
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from spaceevo.artifacts import atomic_path, cache_folder, fingerprint
from spaceevo.errors import DataError, choices

KEPT_FROM = 10_000  # Files in a tar from which on its list of members is kept in the cache folder
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


class TarImage(NamedTuple):
    """Names an image inside a tar file: its bytes lie at `offset`."""

    tar: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        """Write both names, for messages."""
        return f"{self.tar}/{self.name}"

    def read(self) -> BytesIO:
        """Read the image file's bytes; any number of threads and processes may read at once."""
        return BytesIO(os.pread(_descriptor(self.tar, os.getpid()), self.size, self.offset))


class Listing(NamedTuple):
    """Lists the images of a folder or a tar file: classes sorted by name, images with their labels in its order."""

    source: Path
    classes: list[str]
    samples: Sequence[tuple[str | TarImage, int]]


@lru_cache(maxsize=16)
def _descriptor(tar: str, process: int) -> int:
    """An open file of this process."""
    return os.open(tar, os.O_RDONLY)


def read_tar(path: Path) -> Listing:
    """List the images of a tar file.

    Raises:
        DataError: no uncompressed tar file, or none of its members is `x/<class>/<image>`.
    """
    names, offsets, sizes = _members(path)
    images = [
        TarImage(str(path), name, int(offset), int(size))
        for name, offset, size in zip(names, offsets, sizes, strict=True)
        if name.count("/") == 2 and name.lower().endswith(IMG_EXTENSIONS)
    ]
    if not images:
        raise DataError(
            f"{path} holds no member of the form x/<class>/<image>; it holds {choices(names, limit=3) or 'no files'}"
        )
    classes = sorted({image.name.split("/")[1] for image in images})
    labels = {name: label for label, name in enumerate(classes)}
    return Listing(path, classes, [(image, labels[image.name.split("/")[1]]) for image in images])


def _members(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, offsets and sizes of all files in a tar; those of large ones, which take minutes to walk, are kept."""
    state = path.stat()
    kept = cache_folder("tars") / f"{fingerprint([str(path.resolve()), state.st_size, state.st_mtime_ns])}.npz"
    if kept.is_file():
        with np.load(kept) as content:
            return content["names"].tobytes().decode().split("\n"), content["offsets"], content["sizes"]
    try:
        with tarfile.open(path, "r:") as tar:
            found = [(member.name, member.offset_data, member.size) for member in tar if member.isfile()]
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path} is truncated or no uncompressed tar file ({error})") from error
    names = [name for name, _, _ in found]
    offsets, sizes = np.array([place for _, *place in found], np.int64).reshape(-1, 2).T
    if len(names) >= KEPT_FROM:
        with suppress(OSError), atomic_path(kept) as temporary, temporary.open("wb") as file:
            text = np.frombuffer("\n".join(names).encode(), np.uint8)
            np.savez(file, names=text, offsets=offsets, sizes=sizes)
    return names, offsets, sizes
