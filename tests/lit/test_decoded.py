"""Images that are kept decoded: the same bits, from any number of processes, within the limit, after kills."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spaceevo.artifacts.files import MACHINE
from spaceevo.errors import ConfigError, DataError
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.decoded import HEADER, LEDGER, DecodedCache
from spaceevo.lit.pixels import Reading
from spaceevo.lit.tars import TRAIN_TAR, VAL_TAR
from spaceevo.lit.torchvision_data import TorchvisionDataModule
from spaceevo.lit.transforms import ImageTransform

SIDE = 20
FILE_BYTES = HEADER.size + SIDE * SIDE * 3
TRANSFORM = ImageTransform(size=12, resize=14, auto_augment=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    names = [
        f"{split}/{label}/{n}.jpg"
        for split, count in (("train", 8), ("val", 2))
        for label in "ab"
        for n in range(count)
    ]
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def epochs(root: Path, cache: Path | None, **settings: Any) -> list[torch.Tensor]:
    """Two epochs of training and the evaluation batches."""
    data = ImageFolderDataModule(
        root=root, transform=TRANSFORM, batch_size=4, eval_batch_size=4, holdout=4, decoded_cache=cache, **settings
    )
    found = []
    for data.epoch in range(2):
        found += [images for images, _ in data.train_dataloader()]
    return found + [images for images, _ in (*data.val_dataloader(), *data.test_dataloader())]


def files(cache: Path) -> list[Path]:
    return sorted(cache.glob("??/*"))


def booked(cache: Path) -> int:
    return sum(value for (value,) in struct.iter_unpack("<q", (cache / LEDGER).read_bytes()))


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_bits(photos: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, cache = epochs(photos, None), tmp_path / "cache"
    assert same(epochs(photos, cache, num_workers=workers), plain)
    assert len(files(cache)) == 20
    assert booked(cache) == sum(file.stat().st_size for file in files(cache)) == 20 * FILE_BYTES
    monkeypatch.setattr(Image, "open", lambda path: pytest.fail(f"decoded {path} again"))
    assert same(epochs(photos, cache), plain)


def test_images_in_tars_are_kept_too(photos: Path, tmp_path: Path) -> None:
    root, cache = tmp_path / "tars", tmp_path / "cache"
    root.mkdir()
    for split, name in (("train", TRAIN_TAR), ("val", VAL_TAR)):
        with tarfile.open(root / name, "w") as tar:
            tar.add(photos / split, "x")
    plain = epochs(root, None)
    assert same(epochs(root, cache), plain)
    assert len(files(cache)) == 20
    assert same(epochs(root, cache), plain)


def test_beyond_the_limit_images_are_decoded_anew(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    limit = 5.5 * FILE_BYTES / 2**30
    assert same(epochs(photos, cache, decoded_cache_gib=limit, num_workers=2), epochs(photos, None))
    assert len(files(cache)) == 5
    assert booked(cache) == 5 * FILE_BYTES


def test_a_changed_source_is_decoded_again(photos: Path, tmp_path: Path) -> None:
    cache, source = DecodedCache(tmp_path / "cache", 1), photos / "train/a/0.jpg"
    before = cache.load(str(source))
    Image.new("RGB", (30, 10), "red").save(source)
    assert cache.load(str(source)).size == (30, 10)
    assert DecodedCache(cache.folder, 1).load(str(source)).size == (30, 10)
    assert before.size == (SIDE, SIDE)
    assert len(files(cache.folder)) == 1
    assert booked(cache.folder) == HEADER.size + 30 * 10 * 3
    source.write_bytes(b"torn")
    with pytest.raises(DataError, match="cannot be read"):
        cache.load(str(source))
    source.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        cache.load(str(source))


def test_a_torn_file_is_not_taken(photos: Path, tmp_path: Path) -> None:
    cache, source = DecodedCache(tmp_path / "cache", 1), str(photos / "train/a/0.jpg")
    whole = cache.load(source)
    (kept,) = files(cache.folder)
    for length in (0, HEADER.size - 1, FILE_BYTES - 1):
        os.truncate(kept, length)
        assert cache.load(source).tobytes() == whole.tobytes()
        assert kept.stat().st_size == FILE_BYTES


@pytest.mark.slow
def test_a_killed_writer_leaves_no_torn_image(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    program = f"""
import os, signal
from pathlib import Path
from spaceevo.lit.decoded import DecodedCache
write = Path.write_bytes
def killed(path, content):
    if len(list(Path({str(cache)!r}).glob("??/*.rgb"))) == 3:
        write(path, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, content)
Path.write_bytes = killed
cache = DecodedCache({str(cache)!r}, 1)
for number in range(8):
    cache.load(f"{photos}/train/a/{{number}}.jpg")
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(cache.glob("??/*.rgb"))) == 3
    assert same(epochs(photos, cache), epochs(photos, None))
    assert len(list(cache.glob("??/*.rgb"))) == 20


def test_what_others_book_in_the_meantime_counts(tmp_path: Path) -> None:
    first, second = (DecodedCache(tmp_path / "cache", 100 / 2**30) for _ in range(2))
    assert first._book(60)
    append = second._append

    def overtaken(size: int) -> int:
        first._append(30)
        return append(size)

    second._append = overtaken  # type: ignore[method-assign]
    assert not second._book(40)
    second._append = append  # type: ignore[method-assign]
    assert booked(tmp_path / "cache") >= 90
    assert not second._book(11)


def test_a_cache_that_cannot_be_written_only_warns(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, source = DecodedCache(tmp_path / "cache", 1), str(photos / "train/a/0.jpg")
    shutil.rmtree(cache.folder)
    cache.folder.write_text("in the way")
    assert cache.load(source).tobytes() == cache.load(source).tobytes()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is not filled any further" in caplog.text


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.decoded_cache_gib is 0; allowed: more than 0$"):
        DecodedCache(tmp_path, 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^data\.decoded_cache .*file is no folder that can be made"):
        DecodedCache(tmp_path / "file", 1)
    with pytest.raises(ConfigError, match=r"torchvision reads cifar10; .*set data\.decoded_cache=null$"):
        TorchvisionDataModule(dataset="cifar10", root=tmp_path, transform=TRANSFORM, decoded_cache=tmp_path / "cache")


def test_a_source_redrawn_with_its_size_and_time_is_decoded_again(photos: Path, tmp_path: Path) -> None:
    cache, source = DecodedCache(tmp_path / "cache", 1), photos / "train/a/0.bmp"
    for colour in ("red", "blue"):
        Image.new("RGB", (SIDE, SIDE), colour).save(source)
        os.utime(source, ns=(10**18, 10**18))
        assert cache.load(str(source)).tobytes() == Image.new("RGB", (SIDE, SIDE), colour).tobytes()


def test_a_damaged_file_is_never_served(photos: Path, tmp_path: Path) -> None:
    cache, source = DecodedCache(tmp_path / "cache", 1), str(photos / "train/a/0.jpg")
    whole = cache.load(source).tobytes()
    (kept,) = files(cache.folder)
    content = kept.read_bytes()
    for place in [*range(HEADER.size + 3), *range(HEADER.size, len(content), 97), len(content) - 1]:
        kept.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert cache.load(source).tobytes() == whole
        assert kept.read_bytes() == content
    swapped = content[: HEADER.size] + content[: -HEADER.size : -1] + content[2 * HEADER.size - 1 :]
    kept.write_bytes(swapped)
    assert len(swapped) == len(content)
    assert cache.load(source).tobytes() == whole


def test_images_read_in_two_ways_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("RGBA", (4, 4)).save(path)
    for _ in range(2):
        for how, colour in {Reading(): 255, Reading(ground=(9, 9, 9)): 9, Reading(reading="published"): 0}.items():
            assert np.asarray(DecodedCache(tmp_path / "cache", 1, how).load(str(path))).max() == colour


def test_what_a_killed_process_left_half_written_is_removed(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    epochs(photos, cache)
    lacking = files(cache)[0]
    half = lacking.with_name(f".{lacking.name}.{MACHINE}-{2**22 + 1}-01234567.tmp")
    other = lacking.with_name(f".{lacking.name}.elsewhere-{2**22 + 1}-01234567.tmp")
    for file in (half, other):
        lacking.rename(file) if lacking.exists() else file.write_bytes(b"")
    epochs(photos, cache)
    assert lacking.exists()
    assert not half.exists()
    assert other.exists()  # its process may live, on another machine
