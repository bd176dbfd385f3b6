"""The images of a folder or of a tar file by their classes, and what is passed over."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from spaceevo.errors import DataError, choices
from spaceevo.lit.broken import NAMED, cannot_be_read, shown
from spaceevo.lit.tars import TarImage, tar_files

Source = str | TarImage  # An image, by its path or its place in a tar file
Sample = tuple[Source, int]  # An image and its label
SYSTEM = frozenset(
    ("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found")
    + ("__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini")
)
"""What systems and programs put beside a user's files, in lower case; names with a dot at the front count too."""
NO_PIXELS = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"))
"""Formats that Pillow knows by their first bytes, and cannot read by itself."""


USUAL = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")  # Endings that messages name


class Listing(NamedTuple):
    """Lists the images of a folder or a tar file: classes sorted by name, images with their labels in its order."""

    source: Path
    classes: list[str]
    samples: list[Sample]
    empty: list[str]  # classes without an image
    passed_over: Counter[str]  # why → how many


@cache
def image_endings() -> frozenset[str]:
    """Return the endings of the files that Pillow reads, in lower case."""
    endings = Image.registered_extensions()
    return frozenset(ending for ending, kind in endings.items() if kind in image_formats())


@cache
def image_formats() -> tuple[str, ...]:
    """Return the formats, whatever a file's ending, that Pillow decodes by itself: for others it starts a program."""
    Image.init()
    return tuple(kind for kind in Image.OPEN if kind not in NO_PIXELS)


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of this name is a system's or a program's, and not the user's."""
    return name.startswith((".", "~$")) or name.lower() in SYSTEM


def why_passed_over(name: str) -> str | None:
    """Say why a file of this name is no image that counts; None if it is one."""
    if is_hidden(name):
        return "hidden"
    ending = _ending(name)
    return None if ending in image_endings() else f"not images: {shown(ending) or 'no ending'}"


def _ending(name: str) -> str:
    """`.png` of `a.b.PNG`; a path's own method takes longer than the file system."""
    before, dot, last = name.rpartition(".")
    return f"{dot}{last.lower()}" if before else ""


class Folder:
    """Goes through a folder: what it holds, links followed, each folder once; what counts as nothing is counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed_over: Counter[str] = Counter()
        self.nowhere: list[str] = []  # links that lead to no file, where an image or a folder could be meant
        self.folders, self.images = self._within(str(path))
        self._seen = {os.path.realpath(path)}

    def _within(self, path: str) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
        """The folders and the images in a folder, by name."""
        folders, images = [], []
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                kind = self._kind(entry)
                if kind == "folder":
                    folders.append(entry)
                elif kind == "image":
                    images.append(entry)
                else:
                    self.passed_over[kind] += 1
        return folders, images

    def _kind(self, entry: os.DirEntry[str]) -> str:
        """A `folder`, an `image`, or why it is passed over."""
        if is_hidden(entry.name):
            return "hidden"
        with suppress(OSError):  # a link that leads to itself
            if entry.is_dir():
                return "folder"
            if entry.is_file():
                return why_passed_over(entry.name) or "image"
            if not entry.is_symlink() or Path(entry.path).exists():
                return "not files"
        if is_meant(entry.name):
            self.nowhere.append(entry.path)
        return "links to nothing"

    def enter(self, path: str) -> bool:
        """Whether a folder is seen for the first time, and does not hold the whole; it is then seen."""
        real, whole = os.path.realpath(path), os.path.realpath(self.path)
        first = real not in self._seen and os.path.commonpath([real, whole]) != real
        self._seen.add(real)
        return first

    def images_below(self, path: str) -> Iterator[tuple[str, list[str]]]:
        """Yield a folder and all folders in it, each with the paths of its images."""
        folders, images = self._within(path)
        yield path, [entry.path for entry in images]
        for entry in folders:
            if self.enter(entry.path):
                yield from self.images_below(entry.path)
            else:
                self.passed_over["links that lead back"] += 1


def is_meant(name: str) -> bool:
    """Tell whether a link of this name would be an image or a folder, if it led to one."""
    return not is_hidden(name) and (not _ending(name) or why_passed_over(name) is None)


def read_folder(path: Path) -> Listing:
    """List the images of a folder that holds a folder for each class: by class, folder and name.

    Raises:
        DataError: two class folders are one, or names are at fault; links lead to nothing.
    """
    folder = Folder(path)
    folder.passed_over["outside of the classes' folders"] += len(folder.images)
    classes = []
    for entry in folder.folders:
        if folder.enter(entry.path):
            classes.append(entry)
        elif twin := next((other.name for other in classes if Path(other.path).samefile(entry.path)), None):
            raise DataError(f"{shown(path)}: classes {shown(twin)} and {shown(entry.name)} are one folder; remove one")
        else:
            folder.passed_over["links that lead back"] += 1
    named: list[tuple[Source, str]] = []
    for entry in classes:
        found = sorted(folder.images_below(entry.path))
        named += [(image, entry.name) for _, images in found for image in images]
    if folder.nowhere:
        raise cannot_be_read(folder.nowhere[:NAMED], "it is a link to what is not there")
    return _listing(path, [entry.name for entry in classes], named, folder.passed_over)


def read_tar(path: Path) -> Listing:
    """List the images of a tar file, in its order; members are `x/<class>/<image>`, or all `<class>/<image>`.

    Raises:
        DataError: no uncompressed tar file, none of its members is of that form, or names are at fault.
    """
    passed_over: Counter[str] = Counter()
    files, images = tar_files(path), []
    nowhere = [file for file in files if file.is_missing and is_meant(file.name.rpartition("/")[2])]
    if nowhere:
        raise cannot_be_read(nowhere[:NAMED], "it is a link to what the tar does not hold")
    for file in files:
        *folders, name = file.name.split("/")
        why = "hidden" if any(map(is_hidden, folders)) else why_passed_over(name)
        if why is None and folders:
            images.append((file, folders))
        else:
            passed_over[why or "outside of the classes' folders"] += 1
    if not images:
        raise DataError(_no_classes(path, [file.name for file in files]))
    depth = 1 if all(len(folders) > 1 for _, folders in images) else 0
    named: list[tuple[Source, str]] = [(file, folders[depth]) for file, folders in images]
    return _listing(path, dict.fromkeys(name for _, name in named), named, passed_over)


def _no_classes(path: Path, names: Sequence[str]) -> str:
    holds = f"{shown(path)} holds no member of the form x/<class>/<image>; it holds "
    holds += choices(map(shown, names), limit=3) or "no files"
    if any("/" not in name and name.lower().endswith((".tar", *image_endings())) for name in names):
        holds += (
            ". Is it ImageNet's own? torchvision.datasets.ImageNet(root, split) unpacks it into class folders, with "
            "ILSVRC2012_devkit_t12.tar.gz beside it"
        )
    return holds


def _listing(
    source: Path, folders: Iterable[str], named: Sequence[tuple[Source, str]], passed_over: Counter[str]
) -> Listing:
    """A listing of images by the names of their classes' folders."""
    classes: dict[str, str] = {}
    for name in folders:
        normal = unicodedata.normalize("NFC", name)
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise DataError(f"{shown(source)}: class {shown(name)} has a name that is no text of one line; rename it")
        if normal in classes.values():
            raise DataError(
                f"{shown(source)} holds two classes {shown(normal)}, spelled in two forms of Unicode; join them"
            )
        classes[name] = normal
    filled = {name for _, name in named}
    empty = sorted(normal for name, normal in classes.items() if name not in filled)
    labels = {name: label for label, name in enumerate(sorted(filled, key=classes.__getitem__))}
    samples = [(image, labels[name]) for image, name in named]
    return Listing(source, [classes[name] for name in labels], samples, empty, +passed_over)
