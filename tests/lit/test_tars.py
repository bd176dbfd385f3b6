"""Images in tar files are those of the folder they were made of."""

import io
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spaceevo.errors import DataError
from spaceevo.lit import tars
from spaceevo.lit.broken import BrokenImageError
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.listing import Listing, Sample, read_tar
from spaceevo.lit.tars import TRAIN_TAR, VAL_TAR, TarImage
from spaceevo.lit.transforms import load_image

Pack = Callable[[str, str], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in {"train/b": 9, "train/a": 8, "val/a": 3, "val/b": 4}.items():
        (tmp_path / "folder" / part).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "folder" / part / f"{index:02d}.png")
    return tmp_path / "folder"


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> Path:
    """The same images in two tars, in the order the folder lists them, with members that are not images."""
    root = tmp_path / "tars"
    root.mkdir()
    for part, name in (("train", TRAIN_TAR), ("val", VAL_TAR)):
        with tarfile.open(root / name, "w") as tar:
            add(tar, "README.txt", b"two slashes are missing")
            add(tar, f"{part}/a/notes.txt", b"no image")
            for path in sorted((folder / part).rglob("*.png")):
                tar.add(path, path.relative_to(folder))
    return root


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def data(root: Path, **settings: Any) -> ImageFolderDataModule:
    transform = {"size": 8, "resize": 8}
    defaults: dict[str, Any] = {
        "root": root,
        "transform": transform,
        "batch_size": 4,
        "eval_batch_size": 3,
        "holdout": 5,
    }
    return ImageFolderDataModule(**defaults | settings)


def named(samples: Sequence[Sample]) -> list[tuple[str, int]]:
    """Names of the members of an archive, and their labels."""
    return [(image.name, label) for image, label in samples if isinstance(image, TarImage)]


def stacked(batches: Any) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = list(batches)
    return torch.cat([images for images, _ in pairs]), torch.cat([labels for _, labels in pairs])


@pytest.mark.parametrize("workers", [0, 2])
def test_every_split_is_that_of_the_folder(folder: Path, packed: Path, workers: int) -> None:
    one, other = data(folder), data(packed, num_workers=workers)
    assert one.classes == other.classes == ("a", "b")
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for expected, found in zip(stacked(getattr(one, loader)()), stacked(getattr(other, loader)()), strict=True):
            assert torch.equal(expected, found)
    assert torch.equal(torch.cat([*one.calibration_images()]), torch.cat([*other.calibration_images()]))


def test_held_out_images_are_the_first_of_the_permutation_of_members(packed: Path) -> None:
    """Over the archive's order, not the sorted one."""
    with tarfile.open(packed / TRAIN_TAR) as tar:
        members = [member.name for member in tar if member.name.count("/") == 2 and member.name.endswith(".png")]
    with tarfile.open(packed / TRAIN_TAR) as source, tarfile.open(packed / "turned.tar", "w") as turned:
        for name in members[::-1]:
            content = source.extractfile(name)
            assert content is not None
            add(turned, name, content.read())
    (packed / "turned.tar").replace(packed / TRAIN_TAR)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(2147483647)).tolist()
    splits = data(packed).splits
    assert [name for name, _ in named(splits.held_out)] == [members[::-1][index] for index in order[:5]]
    assert [name for name, _ in named(splits.train)] == [members[::-1][index] for index in order[5:]]
    assert all(label == "ab".index(name.split("/")[1]) for name, label in named(splits.train))


def test_without_a_val_tar_the_held_out_images_are_the_test(packed: Path) -> None:
    (packed / VAL_TAR).unlink()
    splits = data(packed).splits
    assert splits.test is splits.held_out


def test_a_folder_comes_before_a_tar(folder: Path, packed: Path) -> None:
    (folder / TRAIN_TAR).write_bytes(b"not looked at")
    assert len(data(folder).splits.train) == 12


def test_the_list_of_a_large_tar_is_kept(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path / "cache"))
    whole = read_tar(packed / TRAIN_TAR)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(tars, "KEPT_FROM", 2)
    assert read_tar(packed / TRAIN_TAR) == whole
    assert len(list((tmp_path / "cache" / "tars").iterdir())) == 1
    monkeypatch.setattr(tarfile, "open", None)
    assert read_tar(packed / TRAIN_TAR) == whole


def test_faults_are_one_line(packed: Path) -> None:
    whole = (packed / TRAIN_TAR).read_bytes()
    image = read_tar(packed / TRAIN_TAR).samples[3][0]
    broken = bytearray(whole)
    broken[image.offset : image.offset + 20] = bytes(20)
    (packed / TRAIN_TAR).write_bytes(broken)
    with pytest.raises(BrokenImageError, match=rf"image {packed}/{TRAIN_TAR}/{image.name} cannot be read"):
        load_image(image)
    (packed / TRAIN_TAR).write_bytes(whole[: len(whole) // 2 - 100])
    with pytest.raises(DataError, match=rf"{TRAIN_TAR} is truncated or no uncompressed tar file"):
        data(packed).setup()
    (packed / TRAIN_TAR).write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match=rf"{TRAIN_TAR} is truncated or no uncompressed tar file"):
        data(packed).setup()
    with tarfile.open(packed / TRAIN_TAR, "w") as tar:
        add(tar, "n01440764.tar", b"")
    with pytest.raises(
        DataError,
        match=r"holds no member of the form x/<class>/<image>; it holds n01440764\.tar\. Is it ImageNet's own\? .+",
    ):
        data(packed).setup()


def test_a_class_that_only_val_has_is_named(packed: Path) -> None:
    with tarfile.open(packed / VAL_TAR, "w") as tar:
        add(tar, "val/a/0.png", b"")
    assert data(packed).classes == ("a", "b")
    with tarfile.open(packed / VAL_TAR, "a") as tar:
        add(tar, "val/c/0.png", b"")
    match = rf"classes of \S+{VAL_TAR} are not those of \S+{TRAIN_TAR}; only in the first: c; rename"
    with pytest.raises(DataError, match=match):
        data(packed).setup()


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_processes_share_the_test_images(folder: Path, world_size: int) -> None:
    """Batch by batch, each as one process has it; the fifth process has none of the three batches."""
    module = data(folder)
    whole = list(module.test())
    shares = [list(module.test_share(rank, world_size)) for rank in range(world_size)]
    assert [len(share) for share in shares] == [len(whole[rank::world_size]) for rank in range(world_size)]
    for rank, share in enumerate(shares):
        for (images, labels), (expected, expected_labels) in zip(share, whole[rank::world_size], strict=True):
            assert torch.equal(images, expected)
            assert torch.equal(labels, expected_labels)


Member = tuple[str, str | bytes]  # Its name, and what it links to or holds


def pack_members(path: Path, members: Sequence[Member], *, hard: bool = False) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                add(tar, name, content)
            else:
                info.type, info.linkname = tarfile.LNKTYPE if hard else tarfile.SYMTYPE, content
                tar.addfile(info)


@pytest.fixture
def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return file.getvalue()


def pixels_of(listing: Listing) -> list[tuple[str, str]]:
    """Classes and names of images, each of which can be read."""
    assert all(load_image(image).size == (8, 8) for image, _ in listing.samples)
    return [(listing.classes[label], name) for name, label in named(listing.samples)]


@pytest.mark.parametrize("prefix", ["./", "", "./train/", "/abs/"])
def test_members_may_begin_anywhere(prefix: str, picture: bytes, tmp_path: Path) -> None:
    names = [f"{prefix}{name}" for name in ("a/0.png", "b/1.PNG", "b/2.gif")]
    hidden = [f"{prefix}{name}" for name in ("a/._0.png", "__MACOSX/a/0.png", "a/.DS_Store")]
    pack_members(tmp_path / "x.tar", [(name, picture) for name in (*names, *hidden, f"{prefix}a/list.csv")])
    listing = read_tar(tmp_path / "x.tar")
    start = prefix.removeprefix("./").removeprefix("/")
    assert pixels_of(listing) == [("a", f"{start}a/0.png"), ("b", f"{start}b/1.PNG"), ("b", f"{start}b/2.gif")]
    assert listing.passed_over == {"hidden": 3, "not images: .csv": 1}


@pytest.mark.parametrize("hard", [False, True])
def test_links_in_a_tar_are_what_they_lead_to(hard: bool, picture: bytes, tmp_path: Path) -> None:
    folder = "x/a" if hard else "../a"
    members: list[Member] = [("x/b/0.png", f"{folder}/0.png"), ("x/a/0.png", picture), ("x/b/1.png", f"{folder}/0.png")]
    if not hard:
        members += [("x/c", "a"), ("x/c2", "./c"), ("x/a/again", ".."), ("x/b/2.png", "../c2/0.png")]
    pack_members(tmp_path / "x.tar", members, hard=hard)
    found = pixels_of(read_tar(tmp_path / "x.tar"))
    expected = [("b", "x/b/0.png"), ("a", "x/a/0.png"), ("b", "x/b/1.png")]
    if not hard:
        expected += [("c", "x/c/0.png"), ("c2", "x/c2/0.png"), ("b", "x/b/2.png")]
    assert found == expected


@pytest.mark.parametrize("target", ["nowhere.png", "1.png", "/etc/passwd"])
def test_a_link_to_nothing_is_named(target: str, picture: bytes, tmp_path: Path) -> None:
    pack_members(tmp_path / "x.tar", [("x/a/0.png", picture), ("x/b/1.png", target)])
    with pytest.raises(BrokenImageError, match=r"^image \S+/x\.tar/x/b/1\.png cannot be read \(it is a link to what "):
        read_tar(tmp_path / "x.tar")


@pytest.mark.parametrize("name", ["two\nlines.png", os.fsdecode(b"latin\xe9.png")])
def test_names_of_any_bytes_are_kept(
    name: str, picture: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tars, "KEPT_FROM", 1)
    pack_members(tmp_path / "x.tar", [(f"x/a/{name}", picture), ("x/b/0.png", picture)])
    whole = read_tar(tmp_path / "x.tar")
    assert read_tar(tmp_path / "x.tar") == whole
    (kept,) = (tmp_path / "cache" / "tars").iterdir()
    for damaged in (b"", kept.read_bytes()[:-30], kept.read_bytes().replace(b"x/a/", b"x/c/")):
        kept.write_bytes(damaged)
        assert read_tar(tmp_path / "x.tar") == whole
    assert pixels_of(whole) == [("a", f"x/a/{name}"), ("b", "x/b/0.png")]


def test_compressed_and_flat_tars_are_told_apart(picture: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / TRAIN_TAR, "w:gz") as tar:
        add(tar, "x/a/0.png", picture)
    with pytest.raises(DataError, match=r"is truncated or no uncompressed tar file"):
        data(tmp_path).setup()
    pack_members(tmp_path / TRAIN_TAR, [("ILSVRC2012_val_00000001.JPEG", picture)])
    with pytest.raises(DataError, match=r"it holds ILSVRC2012_val_00000001\.JPEG\. Is it ImageNet's own\? .+_devkit"):
        data(tmp_path).setup()


def test_tars_of_other_names_are_splits_too(picture: bytes, tmp_path: Path) -> None:
    members: list[Member] = [(f"x/{label}/{n}.png", picture) for label in "ab" for n in range(5)]
    for name in ("train.tar", "Test.tar", "._val.tar"):
        pack_members(tmp_path / name, members)
    splits = data(tmp_path).splits
    told = "data: 2 classes, 5 train, 5 held out, 10 test, held out of train.tar, tested on Test.tar"
    assert str(splits) == f"{told}, 1 files passed over (1 hidden)"


@pytest.mark.parametrize(("end", "told"), [("missing", "its end is missing"), ("early", "more follows its end")])
def test_a_tar_that_ends_early_is_no_whole_tar(packed: Path, end: str, told: str) -> None:
    tar = packed / TRAIN_TAR
    with tarfile.open(tar) as content:
        members = content.getmembers()
    whole, place = tar.read_bytes(), members[len(members) // 2].offset
    tar.write_bytes(whole[:place] if end == "missing" else whole[:place] + bytes(1024) + whole[place:])
    with pytest.raises(DataError, match=rf"{TRAIN_TAR} is truncated or no uncompressed tar file \({told}\)"):
        data(packed).setup()
