"""Which images there are, and which of them are trained on, held out and tested on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from spaceevo.errors import ConfigError, DataError, choices
from spaceevo.lit.tars import TRAIN_TAR, VAL_TAR, Listing, read_tar
from spaceevo.lit.transforms import Sample

LAYOUT = (
    "<root>/train/<class>/<image>, and <root>/val/<class>/<image> for the test images, "
    f"or <root>/{TRAIN_TAR} and {VAL_TAR} with members x/<class>/<image>"
)


@dataclass(frozen=True)
class Splits:
    """Lists the files of each split with their labels; `test` is `held_out` where the folder has no `val`."""

    classes: tuple[str, ...]
    train: Sequence[Sample]
    held_out: Sequence[Sample]
    test: Sequence[Sample]


def read_splits(root: Path, holdout: int | float, split_seed: int) -> Splits:
    """List the images of a folder, or of its two tars, without opening one.

    Args:
        root: the folder.
        holdout: images of `train` that are held out: a count, or a share between 0 and 1.
        split_seed: decides which are held out.

    Raises:
        DataError: the folder is missing, lacks images, or its two parts have other classes.
        ConfigError: `holdout` leaves no image to train on.
    """
    if not root.is_dir():
        raise DataError(f"data.root {root} is not a folder; expected {LAYOUT}; set data.root")
    val = _read_part(root, "val", VAL_TAR)
    whole = _read_part(root, "train", TRAIN_TAR) or _read_folder(root if val is None else root / "train")
    order = torch.randperm(len(whole.samples), generator=torch.Generator().manual_seed(split_seed)).tolist()
    samples = [whole.samples[index] for index in order]
    count = _held_out_count(holdout, len(samples))
    held_out = samples[:count]
    if val is not None and val.classes != whole.classes:
        differing = sorted(set(val.classes) ^ set(whole.classes))
        raise DataError(f"classes of {val.source} are not those of {whole.source}; only in one: {choices(differing)}")
    return Splits(tuple(whole.classes), samples[count:], held_out, held_out if val is None else val.samples)


def _read_part(root: Path, folder: str, tar: str) -> Listing | None:
    """A split from its folder or, without one, from its tar file; None where there is neither."""
    if (root / folder).is_dir():
        return _read_folder(root / folder)
    return read_tar(root / tar) if (root / tar).is_file() else None


def _read_folder(folder: Path) -> Listing:
    if not folder.is_dir() or not any(entry.is_dir() for entry in folder.iterdir()):
        raise DataError(f"{folder} holds no class folders; expected {LAYOUT}")
    found = ImageFolder(folder, allow_empty=True)
    filled = set(found.targets)
    empty = [name for name, label in found.class_to_idx.items() if label not in filled]
    if empty:
        raise DataError(
            f"{folder} holds no image of class {choices(empty)}; allowed: files named {choices(IMG_EXTENSIONS)};"
            " add some or remove the class's folder"
        )
    return Listing(folder, found.classes, found.samples)


def _held_out_count(holdout: int | float, total: int) -> int:
    if isinstance(holdout, float):
        if not 0 < holdout < 1:
            raise ConfigError(f"data.holdout is {holdout}; allowed: a share between 0 and 1, or a count of images")
        holdout = min(max(1, round(holdout * total)), total - 1)
    if not 0 < holdout < total:
        raise ConfigError(
            f"data.holdout is {holdout} of {total} images; allowed: at least 1, fewer than all; set data.holdout"
        )
    return holdout
