"""Folders as strangers have them: what they hold is understood, or one line says what to do."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.lit.strangers import CLASSES, write_tree

from spaceevo.errors import DataError
from spaceevo.lit.broken import BrokenImageError
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.transforms import Images, ImageTransform

SMALL = ImageTransform(size=16, resize=16)
ROOT = r"\S+/images"


def module(root: Path, holdout: float = 5) -> ImageFolderDataModule:
    return ImageFolderDataModule(root=root, transform=SMALL, holdout=holdout, batch_size=8)


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strange")


@pytest.fixture(scope="module")
def counts(strange: Path) -> tuple[int, int, int]:
    return write_tree(strange)


def test_the_strangers_set_is_read(
    strange: Path, counts: tuple[int, int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    train, test, passed_over = counts
    data = module(strange)
    data.setup()
    assert data.classes == CLASSES
    line = capsys.readouterr().out
    start = (
        f"data: 10 classes, {train - 5} train, 5 held out, {test} test, held out of Training, tested on Validation, "
    )
    assert line.startswith(start)
    why = "26 hidden, 5 links that lead back, 4 not images: .md, .csv, .mpg, .txt, 1 not files, 1 links to nothing"
    assert line.removeprefix(start) == f"{passed_over} files passed over ({why})\n"
    for split in (data.splits.train, data.splits.held_out, data.splits.test):
        images = Images(split, SMALL.evaluate())
        assert all(images[index][0].shape == (3, 16, 16) for index in range(len(split)))
    assert len(data.content_hash) == 16


def write(root: Path, *folders: str) -> Path:
    """Write three images into each of these folders below `root`."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(3):
            Image.new("RGB", (16, 16), (number, len(folder), 0)).save(root / folder / f"{number}.png")
    return root


def both(*parts: str) -> tuple[str, ...]:
    return tuple(f"{part}/{name}" for part in parts for name in "ab")


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (both("train", "val"), "4 train, 2 held out, 6 test, held out of train, tested on val"),
        (both("Train", "Val"), "4 train, 2 held out, 6 test, held out of Train, tested on Val"),
        (both("training", "validation"), "4 train, 2 held out, 6 test, held out of training, tested on validation"),
        (both("TRAIN", "VALID"), "4 train, 2 held out, 6 test, held out of TRAIN, tested on VALID"),
        (both("training_set", "test_set"), "4 train, 2 held out, 6 test, held out of training_set, tested on test_set"),
        (both("train2017", "val2017"), "4 train, 2 held out, 6 test, held out of train2017, tested on val2017"),
        (both("train", "Evaluation"), "4 train, 2 held out, 6 test, held out of train, tested on Evaluation"),
        (both("train", "Testing"), "4 train, 2 held out, 6 test, held out of train, tested on Testing"),
        (both("train", "valid", "test"), "6 train, 6 held out, 6 test, held out is valid, tested on test"),
        (both("train"), "4 train, 2 held out, 2 test, held out of train, tested on the same"),
        (("a", "b"), "4 train, 2 held out, 2 test, held out of images, tested on the same"),
        (("bus", "car", "train"), "7 train, 2 held out, 2 test, held out of images, tested on the same"),
        (("a/x", "b/y"), "4 train, 2 held out, 2 test, held out of images, tested on the same"),
        (
            (*both("train"), "test/a"),
            "4 train, 2 held out, 3 test, held out of train, tested on test, no test image of b",
        ),
        (
            (*both("train", "val"), "test"),
            "4 train, 2 held out, 6 test, held out of train, tested on val, "
            "1 files passed over (1 without classes: test)",
        ),
        (
            (*both("train"), "masks", "lists/x"),
            "4 train, 2 held out, 2 test, held out of train, tested on the same, "
            "2 files passed over (2 outside of the splits)",
        ),
    ],
)
def test_usual_names_are_understood(folders: tuple[str, ...], told: str, tmp_path: Path) -> None:
    splits = module(write(tmp_path / "images", *folders), holdout=2).splits
    assert str(splits) == f"data: {len(splits.classes)} classes, {told}"
    assert splits.classes == (("bus", "car", "train") if "bus" in folders else ("a", "b"))
    for samples in (splits.train, splits.held_out, splits.test):
        for path, label in samples:
            assert splits.classes[label] in Path(str(path)).parts


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (both("train", "training"), f"{ROOT} holds train and training, both by name its train images; rename or .+"),
        (both("train", "val", "valid"), f"{ROOT} holds val and valid, both by name its val images; rename or .+"),
        (both("val", "test"), f"{ROOT} holds test, val and no train; expected .+"),
        (("set/train/a", "set/train/b"), rf"data\.root {ROOT} is a level too high; set data\.root={ROOT}/set"),
        (("set/a", "set/b"), rf"data\.root {ROOT} is a level too high; set data\.root={ROOT}/set"),
        (("set/train/a", "set/train/b", "c"), rf"data\.root {ROOT} is a level too high; set data\.root={ROOT}/set"),
        (("a",), rf"{ROOT} holds fewer than two classes \(a\); allowed: a folder for each class"),
        (("train/a", "val/a"), rf"{ROOT}/train holds fewer than two classes \(a\); allowed: a folder for each class"),
        (
            both("seg_train", "seg_test"),
            rf"{ROOT}: seg_test, seg_train look like splits\. If they are, .+",
        ),
        (("seg_train/seg_train/a", "seg_test/seg_test/a"), rf"{ROOT}: seg_test, seg_train look like splits\. If .+"),
        (("front/a", "front/b", "side/a", "side/b"), rf"{ROOT}: front, side look like splits\. If they are, .+"),
        (("train", "val"), f"{ROOT}/train holds no class folders; expected .+"),
        ((*both("train"), "val"), f"{ROOT}/val holds no class folders; expected .+"),
        (("café", unicodedata.normalize("NFD", "café")), f"{ROOT} holds two classes café, spelled in two forms .+"),
        (("a", "two\nlines"), rf"{ROOT}: class two\\nlines has a name that is no text of one line; rename it"),
        (("a", os.fsdecode(b"latin\xe9")), rf"{ROOT}: class latin\\udce9 has a name that is no text of one line; .+"),
    ],
)
def test_what_can_be_meant_in_two_ways_is_refused(folders: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^{message}$") as caught:
        module(write(tmp_path / "images", *folders), holdout=2).setup()
    assert len(str(caught.value)) < 500


def packed(root: Path) -> None:
    (root / "train.zip").write_bytes(b"unpacked already")
    (root / "Val.tar.gz").write_bytes(b"")


def linked_twin(root: Path) -> None:
    (root / "train" / "c").symlink_to(root / "train" / "a")


def linked_split(root: Path) -> None:
    (root / "val").symlink_to(root / "train")


def gone(root: Path) -> None:
    for name in ("train/a/x.png", "train/gone", "train/b/self.png"):
        (root / name).symlink_to(root / "train/b/self.png" if "self" in name else root / "nowhere")


def file_as_root(root: Path) -> None:
    shutil.rmtree(root)
    root.write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (packed, f"{ROOT}/Val.tar.gz is compressed; unpack it, or remove it"),
        (linked_twin, f"{ROOT}/train: classes a and c are one folder; remove one"),
        (linked_split, f"{ROOT}: train, val are one; training images test nothing"),
        (gone, rf"image {ROOT}/train/gone cannot be read \(it is a link to what is not there\), nor can 2 more: .+"),
        (file_as_root, rf"data\.root {ROOT} is not a folder; expected .+"),
    ],
)
def test_links_that_cannot_be_meant_are_refused(change: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    root = write(tmp_path / "images", *both("train"))
    change(root)
    with pytest.raises(DataError, match=f"^{message}$"):
        module(root, holdout=2).setup()


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may list all, so the system's answer is made here."""
    root, scandir = write(tmp_path / "images", *both("train")), os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("train/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=rf"^{ROOT}/train/b cannot be read \(Permission denied\); set data\.root$"):
        module(root).setup()


def test_the_folder_one_stands_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path / "images", "a", "b"))
    assert "held out of images" in str(module(Path(), holdout=1).splits)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def test_one_run_names_all_broken_images(tmp_path: Path) -> None:
    root = write(tmp_path / "images", *both("train", "val"))
    for name in ("train/a/0.png", "train/b/1.png", "val/b/2.png"):
        cut(root / name)
    (root / "val/a/1.png").write_bytes(b"")
    for workers in (0, 1):
        data = ImageFolderDataModule(root=root, transform=SMALL, holdout=1, batch_size=1, num_workers=workers)
        with pytest.raises(BrokenImageError) as caught:
            list(data.train_dataloader())
        told = str(caught.value)
        assert told.startswith(f"image {root}/train/")
        assert all(name in told for name in ("a/0.png", "b/1.png", "val/b/2.png", "val/a/1.png"))
        assert " cannot be read (" in told
        assert told.endswith("; replace or remove them")
        assert "\n" not in told
        assert len(told) < 500


def test_many_broken_images_are_listed_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "images"
    write(root, *(f"train/{'a long name of a class ' * 3}{number}" for number in range(10)))
    for path in root.rglob("*.png"):
        cut(path)
    with pytest.raises(BrokenImageError, match="nor can 19 more at least: all are listed in ") as caught:
        list(module(root).train_dataloader())
    told = str(caught.value)
    listed = Path(told.partition("listed in ")[2].partition(";")[0]).read_text().splitlines()
    assert len(told) < 500
    assert len(set(listed)) == 20
    assert {*listed} < {str(path) for path in root.rglob("*.png")}
    monkeypatch.setenv("SPACEEVO_CACHE", str(root / "train" / listed[0]))  # a file: nothing can be written below it
    with pytest.raises(BrokenImageError, match="nor can 19 more at least; replace or remove them$"):
        list(module(root).train_dataloader())


def test_files_that_cannot_be_opened_are_named_before_any_work(tmp_path: Path) -> None:
    data = module(write(tmp_path / "images", *both("train")), holdout=2)
    data.setup()
    for name in ("train/a/0.png", "train/b/1.png"):
        (data.root / name).unlink()
    match = r"^image \S+(a/0|b/1)\.png cannot be read \(No such .+\), nor can 1 more: (b/1|a/0)\.png; replace"
    with pytest.raises(BrokenImageError, match=match):
        _ = data.content_hash


def test_a_folder_beside_train_that_holds_its_classes_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "images", *both("train", "holdout"), "notes/old")
    with pytest.raises(DataError, match=r"holdout holds classes of \S+train \(a, b\) and looks like a split"):
        module(root).setup()
