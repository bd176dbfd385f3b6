"""Which images there are, and which of them are trained on, held out and tested on."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from spaceevo.errors import ConfigError, DataError, choices
from spaceevo.lit.broken import shown
from spaceevo.lit.listing import USUAL, Folder, Listing, Sample, is_hidden, read_folder, read_tar
from spaceevo.lit.tars import TRAIN_TAR, VAL_TAR

TRAIN, VAL, TEST = "train", "val", "test"
WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "devel", "eval", "evaluation"), VAL),
    **dict.fromkeys(("test", "tests", "testing"), TEST),
}
"""Words that say which split a folder or tar is, in any case, alone or with those of `FILLERS` and numbers."""
FILLERS = {"set", "split", "data", "images"}
PACKED = re.compile(r"(\.tar)?\.(gz|bz2|xz|zst|zip|7z|rar)$|\.tgz$", re.IGNORECASE)
LAYOUT = (
    "<root>/train/<class>/<image>, and the same below <root>/val or <root>/test for the test images, "
    f"or <root>/{TRAIN_TAR} and {VAL_TAR} with members x/<class>/<image>"
)


@dataclass(frozen=True)
class Splits:
    """Lists the files of each split with their labels; `test` is `held_out` where the folder has no other images."""

    classes: tuple[str, ...]
    train: Sequence[Sample]
    held_out: Sequence[Sample]
    test: Sequence[Sample]
    notes: tuple[str, ...] = ()  # what was taken for what, and what was passed over

    def at_most(self, train: int | None, test: int | None) -> "Splits":
        """Keep at most so many images of the training split, and of each of the others, spread evenly over it."""
        held_out = _spread(self.held_out, test)
        tested = held_out if self.test is self.held_out else _spread(self.test, test)
        return Splits(self.classes, self.train[:train], held_out, tested, self.notes)

    def __str__(self) -> str:
        """Tell them in one line."""
        parts = {"train": self.train, "held out": self.held_out, "test": self.test}
        counts = [f"{len(samples)} {name}" for name, samples in parts.items()]
        return ", ".join([f"data: {len(self.classes)} classes", *counts, *self.notes])


def read_splits(root: Path, holdout: int | float, split_seed: int) -> Splits:
    """List the images of a folder, or of its tars, without opening one.

    Args:
        root: the folder.
        holdout: images of the training split that are held out, unless there are both others, `val` and `test`: a
            count, or a share between 0 and 1.
        split_seed: decides which are held out, and the order of the others.

    Raises:
        DataError: the folder is missing, lacks images, can be understood in two ways, or a part has other classes.
        ConfigError: `holdout` leaves no image to train on.
    """
    root = root.absolute() if root.name in ("", "..") else root  # messages name it
    try:
        if not root.is_dir():
            raise DataError(f"data.root {shown(root)} is not a folder; expected {LAYOUT}; set data.root")
        passed_over: Counter[str] = Counter()
        found = {
            split: read_tar(path) if path.is_file() else read_folder(path)
            for split, path in _find(root, passed_over).items()
        }
    except OSError as error:
        raise DataError(f"{shown(error.filename or root)} cannot be read ({error.strerror}); set data.root") from error
    train = found.pop(TRAIN)
    _check_classes(train)
    tested = {split: _relabelled(part, train) for split, part in found.items()}
    samples, held_out = hold_out(train.samples, 0 if len(tested) == 2 else holdout, split_seed)
    if len(tested) == 2:
        held_out = tested[VAL]
    test = tested.get(TEST, tested.get(VAL, held_out))
    for part in (train, *found.values()):
        passed_over += part.passed_over
    roles = f"held out is {found[VAL].source.name}" if len(tested) == 2 else f"held out of {train.source.name}"
    notes = _notes(roles, train, found.get(TEST, found.get(VAL)), passed_over)
    return Splits(tuple(train.classes), samples, held_out, test, notes)


def _spread(samples: Sequence[Sample], most: int | None) -> Sequence[Sample]:
    count = len(samples)
    return samples if most is None or count <= most else [samples[index * count // most] for index in range(most)]


def _notes(roles: str, train: Listing, tested: Listing | None, passed_over: Counter[str]) -> tuple[str, ...]:
    """What was taken for what, and what was passed over."""
    notes = [f"{roles}, tested on {shown(tested.source.name) if tested else 'the same'}"]
    if tested and (without := sorted({*train.classes} - {*tested.classes})):
        notes.append(f"no test image of {choices(map(shown, without), limit=3)}")
    counts, endings = Counter[str](), defaultdict[str, list[str]](list)
    for why, count in passed_over.most_common():
        kind, _, ending = why.partition(":")
        counts[kind] += count
        endings[kind] += [ending.strip()] if ending else []
    if counts:
        reasons = [": ".join([f"{counts[kind]} {kind}", *filter(None, [choices(endings[kind], 5)])]) for kind in counts]
        notes.append(f"{counts.total()} files passed over ({', '.join(reasons)})")
    return tuple(notes)


def _find(root: Path, passed_over: Counter[str]) -> dict[str, Path]:
    """The folder or tar of each split; the root itself as `train` where its folders are the classes."""
    top = Folder(root)
    folders = [Path(entry.path) for entry in top.folders]
    splits = [path for path in folders if split_of(path.name)]
    tars = [path for path in sorted(root.glob("*.tar")) if split_of(path.name) and not is_hidden(path.name)]
    bare = [path for path in splits if not Folder(path).folders]
    if not tars and len(bare) == len(splits) and (not splits or len(splits) < len(folders)):
        _check_level(root, folders)  # a class may be named train, as the vehicle
        return {TRAIN: root}
    for path in bare:  # test images without classes are left to others
        if split_of(path.name) != TEST:
            raise DataError(f"{shown(path)} holds no class folders; expected {LAYOUT}")
        splits.remove(path)
        passed_over[f"without classes: {shown(path.name)}"] += 1
    found = _by_split(root, tars) | _by_split(root, splits)
    packed = (path for path in sorted(root.iterdir()) if PACKED.search(path.name) and not is_hidden(path.name))
    if unread := [path for path in packed if split_of(PACKED.sub("", path.name)) not in (None, *found)]:
        raise DataError(f"{shown(unread[0])} is compressed; unpack it, or remove it")
    if TRAIN not in found:
        raise DataError(
            f"{shown(root)} holds {choices(p.name for p in found.values())} and no train; expected {LAYOUT}"
        )
    _check_beside(found[TRAIN], [path for path in folders if path not in (*found.values(), *bare)])
    if len({os.path.realpath(path) for path in found.values()}) < len(found):
        raise DataError(
            f"{shown(root)}: {choices(p.name for p in found.values())} are one; training images test nothing"
        )
    passed_over += top.passed_over
    passed_over["not images: .tar"] -= sum(path in tars for path in found.values())
    passed_over["outside of the splits"] += len(top.images) + len({*folders} - {*found.values()} - {*bare})
    return found


def _check_beside(train: Path, others: Sequence[Path]) -> None:
    """Raise a `DataError` where a folder beside the splits holds folders of the training images' classes."""
    classes = {entry.name for entry in Folder(train).folders} if train.is_dir() else set()
    for path in others:
        alike = sorted(classes & {entry.name for entry in Folder(path).folders})
        if len(alike) > 1:
            raise DataError(
                f"{shown(path)} holds classes of {shown(train)} ({choices(map(shown, alike), limit=3)}) and looks like "
                "a split; if it is one, name it val or test; else move it elsewhere"
            )


def split_of(name: str) -> str | None:
    """Tell which split a folder or a tar of this name is; None if it is none."""
    first, *others = [*_words(name.lower().removesuffix(".tar").removeprefix("ilsvrc2012_img_")), ""]
    return WORDS.get(first.removesuffix("set")) if FILLERS.issuperset(filter(None, others)) else None


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.lower())


def _by_split(root: Path, paths: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        split = split_of(path.name) or ""
        if split in found:
            twins = f"{shown(found[split].name)} and {shown(path.name)}"
            raise DataError(f"{shown(root)} holds {twins}, both by name its {split} images; rename or remove one")
        found[split] = path
    return found


def _check_level(root: Path, folders: Sequence[Path]) -> None:
    """Raise a `DataError` where the folders of a root look like splits or data sets, and not like classes."""
    if not folders:
        held = choices((shown(path.name) for path in sorted(root.iterdir())), limit=3) or "nothing"
        raise DataError(f"{shown(root)} holds no class folders; expected {LAYOUT}; it holds {held}")
    inside = {path: Folder(path) for path in folders}
    for path, folder in inside.items():
        deep = any(split_of(entry.name) == TRAIN and Folder(Path(entry.path)).folders for entry in folder.folders)
        if deep or (len(folders) == 1 and len(folder.folders) > 1):
            raise DataError(f"data.root {shown(root)} is a level too high; set data.root={shown(path)}")
    named = [path for path, folder in inside.items() if not folder.images and WORDS.keys() & _words(path.name)]
    names = [{entry.name for entry in folder.folders} for folder in inside.values()]
    alike = len(names) > 1 and len(names[0]) > 1 and all(each == names[0] for each in names)
    if named or (alike and not any(folder.images for folder in inside.values())):
        raise DataError(
            f"{shown(root)}: {choices((shown(path.name) for path in named or folders), limit=3)} look like splits. "
            "If they are, name them train, val and test; if they are classes, put them into a folder train"
        )


def _check_classes(train: Listing) -> None:
    if train.empty:
        raise DataError(
            f"{shown(train.source)} holds no image of class {choices(map(shown, train.empty))}; "
            f"allowed: files named {choices(USUAL)} or as Pillow reads; add some or remove the class's folder"
        )
    if len(train.classes) < 2:
        only = choices(map(shown, train.classes)) or "none"
        raise DataError(
            f"{shown(train.source)} holds fewer than two classes ({only}); allowed: a folder for each class"
        )


def _relabelled(part: Listing, train: Listing) -> list[Sample]:
    """The images of another split, by the labels of the training images."""
    unknown = [name for name in part.classes if name not in train.classes]
    if unknown:
        where = f"classes of {shown(part.source)} are not those of {shown(train.source)}; only in the first: "
        raise DataError(f"{where}{choices(map(shown, unknown))}; rename or remove them")
    if not part.samples:
        raise DataError(f"{shown(part.source)} holds no image; add some or remove it")
    labels = [train.classes.index(name) for name in part.classes]
    return [(image, labels[label]) for image, label in part.samples]


def hold_out(samples: Sequence[Sample], holdout: int | float, split_seed: int) -> tuple[list[Sample], list[Sample]]:
    """Return images to train on and held-out ones, in an order that `split_seed` decides; 0 holds none out."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(split_seed)).tolist()
    count = _held_out_count(holdout, len(samples)) if holdout else 0
    shuffled = [samples[index] for index in order]
    return shuffled[count:], shuffled[:count]


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
