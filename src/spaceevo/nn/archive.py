"""Reads the files that `torch.save` writes, a zip archive or the older stream, around an unpickler it is given.

Sizes are checked before memory is taken: no tensor has more elements than its storage, no storage more bytes than the
file has for it, and no pickle is larger than a checkpoint's.
"""

import math
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import IO, NamedTuple

import torch
from torch import Tensor

from spaceevo.artifacts.parsing import require_file

ZIP_MAGIC = b"PK\x03\x04"
STREAM_MAGIC = (0x1950A86A20F9469CFC6C, 1001)  # Number and version at the start of the older stream
MOST_PICKLED = 2**22  # Bytes of a pickle; those of the largest supernets have less than a million
DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}
"""What a pickle calls the type of a storage → the type of its elements."""


class HoldsCode(Exception):
    """The file asks for this function, or is a program."""


class Storage(NamedTuple):
    """Holds the bytes of one storage, and says what its elements are."""

    content: Tensor  # uint8
    dtype: torch.dtype


class Limited:
    """Reads a file up to a limit; a value that claims to be longer is refused before memory is taken for it."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self.file = file
        self.left = most

    def read(self, size: int = -1) -> bytes:
        """Read as many bytes; raises `EOFError` where there cannot be so many."""
        if not 0 <= size <= self.left:
            raise EOFError(f"a value of {size} bytes where {self.left} are left")
        return self._counted(self.file.read(size))

    def readline(self) -> bytes:
        """Read up to the end of the line."""
        return self._counted(self.file.readline(self.left))

    def _counted(self, data: bytes) -> bytes:
        self.left -= len(data)
        return data


Resolve = Callable[[object], object]  # Turns what a pickle says of a storage into the storage
Unpickle = Callable[[Limited, Resolve], object]


def read_archive(path: Path, unpickle: Unpickle) -> object:
    """Read the object in a file; `unpickle` reads a pickle whose storages the function that it is given finds.

    Raises:
        HoldsCode: it is a program.
        Exception: whatever a broken file makes of `unpickle`, zipfile and torch.
    """
    require_file(path)
    with path.open("rb") as file:
        if file.read(4) == ZIP_MAGIC:
            return _read_zip(path, unpickle)
        if tarfile.is_tarfile(path):
            raise HoldsCode("a tar file, the format of the first torch versions")
        file.seek(0)
        return _read_stream(file, path.stat().st_size, unpickle)


def _read_zip(path: Path, unpickle: Unpickle) -> object:
    with zipfile.ZipFile(path) as archive:
        parts = {each.filename.partition("/")[2]: each for each in archive.infolist()}
        if "constants.pkl" in parts:
            raise HoldsCode("a TorchScript archive")
        if sum(part.file_size for part in parts.values()) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        if "byteorder" in parts and archive.read(parts["byteorder"]) != sys.byteorder.encode():
            raise ValueError("its bytes are in the order of another kind of machine")
        if (size := parts["data.pkl"].file_size) > MOST_PICKLED:
            raise ValueError(f"its pickle has {size} bytes; allowed: {MOST_PICKLED}")
        known: dict[str, Tensor] = {}

        def resolve(named: object) -> Storage:
            dtype, key, _, _ = _description(named)
            if key not in known:  # reading checks the bytes against their sum in the archive, too
                known[key] = _bytes_of(bytearray(archive.read(parts[f"data/{key}"])))
            return Storage(known[key], dtype)

        return unpickle(Limited(BytesIO(archive.read(parts["data.pkl"])), size), resolve)


def _read_stream(file: BufferedReader, size: int, unpickle: Unpickle) -> object:
    limited = Limited(file, min(size, MOST_PICKLED))
    buffers: dict[str, tuple[bytearray, int]] = {}

    def refuse(named: object) -> object:
        raise ValueError("a storage where none can be")

    def resolve(named: object) -> object:
        if isinstance(named, tuple) and named[:1] == ("module",):
            return named[1]
        dtype, key, count, view = _description(named)
        if key not in buffers:
            left = size - sum(len(content) for content, _ in buffers.values())
            if not 0 <= count * dtype.itemsize <= left:
                raise ValueError(f"a storage of {count} elements in a file of {size} bytes")
            buffers[key] = bytearray(count * dtype.itemsize), dtype.itemsize
        content = _bytes_of(buffers[key][0])
        if view is not None:
            start, length = view
            content = content[start * dtype.itemsize : (start + length) * dtype.itemsize]
        return Storage(content, dtype)

    if (unpickle(limited, refuse), unpickle(limited, refuse)) != STREAM_MAGIC:
        raise ValueError("it does not begin as one")
    unpickle(limited, refuse)  # of the machine that wrote it
    content, keys = unpickle(limited, resolve), unpickle(limited, refuse)
    for key in keys if isinstance(keys, list) else ():
        buffer, itemsize = buffers[key]
        if int.from_bytes(file.read(8), "little") * itemsize != len(buffer) or file.readinto(buffer) < len(buffer):
            raise EOFError("a storage is not whole")
    return content


def _description(named: object) -> tuple[torch.dtype, str, int, tuple[int, int] | None]:
    """What a pickle says of a storage: type and number of its elements, its key, and the part of it that is meant."""
    match named:
        case ("storage", torch.dtype() as dtype, str(key), _, int(count)) | (
            "storage", torch.dtype() as dtype, str(key), _, int(count), None
        ):  # fmt: skip
            return dtype, key, count, None
        case ("storage", torch.dtype() as dtype, str(key), _, int(count), (_, int(start), int(length))):
            return dtype, key, count, (start, length)
    raise ValueError("it names a storage in no known way")


def _bytes_of(buffer: bytearray) -> Tensor:
    return torch.frombuffer(buffer, dtype=torch.uint8) if buffer else torch.empty(0, dtype=torch.uint8)


def tensor_of(storage: object, offset: object, sizes: object, strides: object, *rest: object) -> Tensor:
    """Make a tensor of a storage; raises `ValueError` where it is larger than that or reaches beyond it."""
    match storage, offset, sizes, strides:
        case Storage(), int(), tuple(), tuple() if len(sizes) == len(strides) and _are_whole(
            (offset, *sizes, *strides)
        ):
            elements = storage.content.view(storage.dtype)
            count, end = math.prod(sizes), offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
            if count and not (count <= len(elements) and end < len(elements)):
                raise ValueError(f"a tensor of {count} elements in a storage of {len(elements)}")
            return elements.as_strided(sizes, strides, offset) if count else elements.new_empty(sizes)
    raise ValueError("a tensor with other sizes than whole numbers")


def _are_whole(numbers: Sequence[object]) -> bool:
    return all(isinstance(number, int) and 0 <= number < 2**40 for number in numbers)
