"""Decoded images on disk: what was decoded once is read back instead, pixel by pixel the same."""

import logging
import os
import struct
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from spaceevo.artifacts import atomic_path, sweep
from spaceevo.errors import ConfigError
from spaceevo.lit.content import file_state
from spaceevo.lit.listing import Source
from spaceevo.lit.pixels import CAREFUL, Reading, how_read
from spaceevo.lit.tars import TarImage
from spaceevo.lit.transforms import load_image

log = logging.getLogger(__name__)
HEADER = struct.Struct("<16sIII")
"""Hash of the source's state, width and height in pixels, CRC-32 of these and of the RGB bytes, which follow."""
LEDGER = "used_bytes"


class DecodedCache:
    """Keeps a folder of decoded RGB images, filled as they are first read; a file each, by the source's path.

    A source whose state has changed is decoded again, and so is one whose kept file is damaged: a checksum is in it.
    Any number of workers and processes of one machine may share the folder: files appear whole, and what they take is
    booked before they are written. The ledger is only ever appended to, which needs no lock: whoever finds its own
    entry within the limit may write.

    Args:
        folder: made where it is absent; remove it as a whole, the ledger with it.
        limit_gib: most GiB that the files take; further images are decoded as they would be without a cache.
        how: how they are decoded; images decoded another way are kept apart.
    """

    def __init__(self, folder: str | Path, limit_gib: float, how: Reading = CAREFUL) -> None:
        if not limit_gib > 0:
            raise ConfigError(f"data.decoded_cache_gib is {limit_gib}; allowed: more than 0")
        self.folder = Path(folder).expanduser()
        self.limit_bytes = int(limit_gib * 2**30)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"data.decoded_cache {folder} is no folder that can be made ({error})") from error
        self.how = how
        self._used_bytes = 0
        self._read_bytes = 0
        self._can_write = True
        self._swept: set[Path] = set()  # folders that this process wrote to

    def load(self, source: Source) -> Image.Image:
        """Return the RGB image of a file, from the cache or decoded."""
        file = source.tar if isinstance(source, TarImage) else source
        try:
            state = sha256(file_state(file).encode()).digest()[:16]
        except OSError:
            return load_image(source, self.how)  # it has the words for an absent file
        path = self._path(source)
        if (kept := _read(path, state)) is not None:
            return kept
        image = load_image(source, self.how)
        if self._can_write:
            try:
                self._write(path, _packed(state, image))
            except OSError as error:
                self._can_write = False
                log.warning("data.decoded_cache %s is not filled any further: %s", self.folder, error)
        return image

    def _path(self, source: Source) -> Path:
        file, *place = source[:3] if isinstance(source, TarImage) else (source,)
        key = sha256(os.fsencode("\0".join(map(str, (Path(file).absolute(), *place, how_read(self.how)))))).hexdigest()
        return self.folder / key[:2] / f"{key[2:34]}.rgb"

    def _write(self, path: Path, content: bytes) -> None:
        if not self._book(len(content)):
            return
        if path.parent not in self._swept:  # what a killed process left there was of an image that is still lacking
            sweep(path.parent)
            self._swept.add(path.parent)
        with atomic_path(path, is_cached=True) as temporary:
            temporary.write_bytes(content)
            replaced = path.stat().st_size if path.exists() else 0  # by another process meanwhile, or out of date
        self._append(-replaced)

    def _book(self, size: int) -> bool:
        """Whether `size` more bytes are within the limit; they then count as used."""
        if self._used() + size > self.limit_bytes:
            return False
        mine = self._append(size)
        if self._used(mine) <= self.limit_bytes:
            return True
        self._append(-size)  # others booked in the meantime
        return False

    def _append(self, size: int) -> int:
        """Book bytes; the ledger's length with this entry."""
        if size == 0:
            return 0
        with (self.folder / LEDGER).open("ab", buffering=0) as ledger:
            ledger.write(struct.pack("<q", size))
            return ledger.tell()

    def _used(self, until: int | None = None) -> int:
        """Bytes booked, up to a length of the ledger."""
        path = self.folder / LEDGER
        if not path.exists():
            return 0
        count = -1 if until is None else max(0, until - self._read_bytes) // 8
        entries = np.fromfile(path, "<i8", count, offset=self._read_bytes)
        self._read_bytes += entries.nbytes
        self._used_bytes += int(entries.sum())
        return self._used_bytes


def _packed(state: bytes, image: Image.Image) -> bytes:
    pixels = image.tobytes()
    return HEADER.pack(state, *image.size, _checksum(state, *image.size, pixels)) + pixels


def _checksum(state: bytes, width: int, height: int, pixels: bytes | memoryview) -> int:
    return crc32(pixels, crc32(HEADER.pack(state, width, height, 0)))


def _read(path: Path, state: bytes) -> Image.Image | None:
    """The cached image; None where there is none, one of another source file or a damaged one."""
    try:
        content = path.read_bytes()
        found, width, height, checksum = HEADER.unpack_from(content)
    except (OSError, struct.error):
        return None
    pixels = memoryview(content)[HEADER.size :]
    if found != state or len(pixels) != width * height * 3 or checksum != _checksum(state, width, height, pixels):
        return None
    return Image.frombytes("RGB", (width, height), pixels)
