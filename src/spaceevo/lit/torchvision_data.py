"""Datasets of torchvision as the one data module: classification beyond ImageNet."""

import os
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Strict
from pydantic.dataclasses import dataclass
from torchvision import datasets

from spaceevo.artifacts import Neutral
from spaceevo.artifacts.values import Index, ShareBelow1
from spaceevo.errors import ConfigError, DataError
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.fashion_mnist import FashionMNIST
from spaceevo.lit.listing import Source
from spaceevo.lit.pixels import Reading, to_rgb
from spaceevo.lit.splits import Splits, hold_out
from spaceevo.lit.transforms import Load, load_image

FETCHES = "fetches files, which count by their content"


@dataclass(frozen=True)
class _Dataset:
    """Names a class of torchvision, and its arguments for images that are trained and tested on (as published)."""

    make: Any
    train: Mapping[str, Any]
    test: Mapping[str, Any]

    @property
    def layout(self) -> str:
        """Name of torchvision's own class, whose documentation says how the files lie."""
        return next(str(base.__name__) for base in self.make.__mro__ if base.__module__.startswith("torchvision."))


class _Cifar10(datasets.CIFAR10):  # type: ignore[misc]
    """CIFAR-10 whose files, once unpacked, are taken as they are; torchvision verifies what it downloads."""

    train_list = [[name, None] for name, _ in datasets.CIFAR10.train_list]
    test_list = [[name, None] for name, _ in datasets.CIFAR10.test_list]
    meta = {**datasets.CIFAR10.meta, "md5": None}


class _Cifar100(datasets.CIFAR100):  # type: ignore[misc]
    """CIFAR-100, likewise."""

    train_list = [[name, None] for name, _ in datasets.CIFAR100.train_list]
    test_list = [[name, None] for name, _ in datasets.CIFAR100.test_list]
    meta = {**datasets.CIFAR100.meta, "md5": None}


class _Flowers102(datasets.Flowers102):  # type: ignore[misc]
    """Flowers, likewise."""

    def _check_integrity(self) -> bool:
        labels = [self._base_folder / self._file_dict[key][0] for key in ("label", "setid")]
        return self._images_folder.is_dir() and all(path.is_file() for path in labels)


SOURCES: dict[str, _Dataset] = {
    "cifar10": _Dataset(_Cifar10, {"train": True}, {"train": False}),
    "cifar100": _Dataset(_Cifar100, {"train": True}, {"train": False}),
    "flowers102": _Dataset(_Flowers102, {"split": "train"}, {"split": "test"}),
    "oxford_iiit_pet": _Dataset(datasets.OxfordIIITPet, {"split": "trainval"}, {"split": "test"}),
    "food101": _Dataset(datasets.Food101, {"split": "train"}, {"split": "test"}),
    "stanford_cars": _Dataset(datasets.StanfordCars, {"split": "train"}, {"split": "test"}),
    "fashion_mnist": _Dataset(FashionMNIST, {"train": True}, {"train": False}),
    "fgvc_aircraft": _Dataset(datasets.FGVCAircraft, {"split": "trainval"}, {"split": "test"}),
}


Dataset = Literal[
    "cifar10",
    "cifar100",
    "flowers102",
    "oxford_iiit_pet",
    "food101",
    "stanford_cars",
    "fgvc_aircraft",
    "fashion_mnist",
]
"""Names in `SOURCES`."""


@dataclass(kw_only=True, eq=False, repr=False)
class TorchvisionDataModule(ImageFolderDataModule):
    """Loads a dataset of torchvision: its training images (`trainval` where published so) and its test images."""

    dataset: Dataset
    # held-out training images, a count or a share; 0: the test images serve as such
    holdout: Annotated[Index, Strict()] | ShareBelow1 = 0
    # whether torchvision may fetch the files that `root` lacks, if that is `place`
    download: Annotated[bool, Neutral(FETCHES)] = True
    place: Annotated[Path, Neutral(FETCHES)] = Path("data/torchvision")  # the one `root` that it fetches to

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoded is not None:
            raise ConfigError(
                f"data.decoded_cache is {self.decoded.folder}, but torchvision reads {self.dataset}; allowed: a folder "
                "for image folders and tars, else null; set data.decoded_cache=null"
            )

    def prepare_data(self) -> None:
        """Let torchvision fetch the files, where it may."""
        _ = self._parts

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        """The training and the test dataset of torchvision."""
        source = SOURCES[self.dataset]
        is_place = self.root.resolve() == self.place.expanduser().resolve()
        given = {"root": str(self.root), "download": self.download and is_place}
        try:
            return source.make(**given, **source.train), source.make(**given, **source.test)
        except Exception as error:  # torchvision and its download raise what they like
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            remedy = f"put its files there as torchvision.datasets.{source.layout} lays them out"
            if not given["download"]:
                remedy += f", or let it be fetched: data.download=true data.place={self.root}"
            where = f"dataset {self.dataset} in data.root {self.root}"
            raise DataError(f"{where} is not there and cannot be fetched ({reason}); {remedy}") from None

    def _read_splits(self) -> Splits:
        """The images of both parts by part and number, `train/17`."""
        train, test = (
            [(f"{part}/{index}", label) for index, label in enumerate(labels_of(dataset))]
            for part, dataset in zip(("train", "test"), self._parts, strict=True)
        )
        classes = _classes(self._parts[0])
        if not self.holdout:
            return Splits(classes, train, test, test, ("held out and tested on the same",))
        return Splits(classes, *hold_out(train, self.holdout, self.split_seed), test, ("held out of train",))

    def content_files(self) -> dict[str, Path]:
        """Return every file of the dataset, by its name below `root`."""
        _ = self._parts
        return {os.path.relpath(file, self.root): file for file in sorted(self.root.rglob("*")) if file.is_file()}

    def content_name(self, image: Source) -> str:
        """Return an image's part and number, `train/17`."""
        return str(image)

    def _load(self) -> Load:
        return partial(_load_numbered, parts=dict(zip(("train", "test"), self._parts, strict=True)), how=self.transform)


def _load_numbered(path: Source, parts: Mapping[str, Any], how: Reading) -> Image.Image:
    """Decode image `train/17`; a `BrokenImageError` names one that cannot be read."""
    part, index = str(path).split("/")
    dataset = parts[part]
    for name in ("_image_files", "_images", "_samples"):  # of all that keep images as files
        if hasattr(dataset, name):
            file = getattr(dataset, name)[int(index)]
            return load_image(str(file[0] if isinstance(file, tuple) else file), how)
    return to_rgb(dataset[int(index)][0], how)


def labels_of(dataset: Any) -> list[int]:
    """List the labels of all images of a torchvision dataset, without decoding one."""
    for name in ("targets", "_labels"):
        if hasattr(dataset, name):
            return [int(label) for label in getattr(dataset, name)]
    return [int(label) for _, label in dataset._samples]


def _classes(dataset: Any) -> tuple[str, ...]:
    if hasattr(dataset, "classes"):
        return tuple(map(str, dataset.classes))
    return tuple(str(label) for label in range(max(labels_of(dataset)) + 1))
