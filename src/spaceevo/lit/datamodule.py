"""One data module for every stage: an image folder, a held-out part, and batches that only seed and epoch decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from spaceevo.errors import ConfigError, DataError, choices
from spaceevo.lit.tars import TRAIN_TAR, VAL_TAR, read_tar
from spaceevo.lit.transforms import Images, ImageTransform, Sample, Transform

Batch = tuple[Tensor, Tensor]

LAYOUT = (
    "<root>/train/<class>/<image>, and <root>/val/<class>/<image> for the test images, "
    f"or <root>/{TRAIN_TAR} and {VAL_TAR} with members x/<class>/<image>"
)


@dataclass(frozen=True)
class Splits:
    """The files of each split with their labels; `test` is `held_out` where the folder has no `val`."""

    classes: tuple[str, ...]
    train: Sequence[Sample]
    held_out: Sequence[Sample]
    test: Sequence[Sample]


class EpochSampler(Sampler[tuple[int, int]]):
    """Pairs `(index, draw)` of one epoch, for `Images`: every image once, in an order that `(seed, epoch)` decides.

    The draw of an image depends on `(seed, epoch)` too, not on workers, ranks or what ran before: an epoch that is run
    again is the same epoch. Ranks share the images out evenly; the first ones are repeated where they do not divide.

    Args:
        length: Number of images.
        seed: Not negative.
        epoch: Not negative; Lightning moves it on through `set_epoch`.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, length: int, *, seed: int, epoch: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.length = length
        self.seed = seed
        self.epoch = epoch
        self.rank = rank
        self.world_size = world_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        mixed = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)
        generator = torch.Generator().manual_seed(int(mixed[0]))
        order = torch.randperm(self.length, generator=generator)
        draws = torch.randint(2**32, (self.length,), generator=generator)
        mine = torch.arange(self.rank, len(self) * self.world_size, self.world_size) % self.length
        return iter(list(zip(order[mine].tolist(), draws[mine].tolist(), strict=True)))


class ImageFolderDataModule(LightningDataModule):
    """Images of a folder `root/train/<class>/*` and `root/val/<class>/*`, or of two tars, classes sorted by name.

    Part of `train` is held out for validation: the first ones of a seeded permutation; the others are trained on.
    `val` is the test split; without it the held-out images serve as test too. A folder that holds the classes directly
    counts as `train`. Images come at one size, the largest; elastic networks resize on their device. Only the training
    split is shared out between processes: every process evaluates all images, so use `use_distributed_sampler=False`.

    Args:
        root: Folder of the images.
        transform: Settings of the transforms, or a mapping of them.
        batch_size: Images a training batch, in each process.
        eval_batch_size: Images a batch of the held-out and test splits.
        num_workers: Loader processes; 0 loads in this one.
        holdout: Held-out images: a count, or a share between 0 and 1 (at least one image).
        split_seed: Seed of the permutation that decides which are held out.
        seed: Seed of the training order and augmentation.
        calibration_batches: Number of batches that `calibration_images` gives.
        calibration_batch_size: Images in each of them, that is, in one forward pass of a calibration.
        cache_mib: Largest split that `held_out` and `test` keep decoded, in MiB.
        prepare: Called with `root` before it is read; writes the images if they are absent.

    Raises:
        ConfigError: a setting is out of its range.
    """

    epoch = 0
    """Epoch of the next training loader, where no trainer is attached to tell it."""

    def __init__(
        self,
        *,
        root: str | Path,
        transform: ImageTransform | Mapping[str, Any],
        batch_size: int = 64,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        holdout: int | float = 0.04,
        split_seed: int = 2147483647,
        seed: int = 0,
        calibration_batches: int = 20,
        calibration_batch_size: int = 64,
        cache_mib: int = 2048,
        prepare: Callable[[Path], object] | None = None,
    ) -> None:
        super().__init__()
        _at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        _at_least(1, calibration_batches=calibration_batches, calibration_batch_size=calibration_batch_size)
        _at_least(0, num_workers=num_workers, split_seed=split_seed, seed=seed, cache_mib=cache_mib)
        self.root = Path(root).expanduser()
        self.transform = transform if isinstance(transform, ImageTransform) else ImageTransform(**transform)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.holdout = holdout
        self.split_seed = split_seed
        self.seed = seed
        self.calibration_batches = calibration_batches
        self.calibration_batch_size = calibration_batch_size
        self.cache_mib = cache_mib
        self._prepare = prepare
        self._decoded: dict[str, Sequence[Batch]] = {}

    @cached_property
    def splits(self) -> Splits:
        """The files of each split, read on first use.

        Raises:
            DataError: the folder is missing, lacks images, or its two parts have other classes.
            ConfigError: `holdout` leaves no image to train on.
        """
        self.prepare_data()
        return _read_splits(self.root, self.holdout, self.split_seed)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted; a label is a position in them."""
        return self.splits.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def prepare_data(self) -> None:
        """Let `prepare` write the images if they are absent."""
        if self._prepare is not None:
            self._prepare(self.root)

    def setup(self, stage: str | None = None) -> None:
        """Read the folder, so that its faults show before anything else starts."""
        _ = self.splits

    def train_dataloader(self) -> DataLoader[Any]:
        """Augmented training batches of one epoch, this process's share of them.

        The epoch is the trainer's, or `self.epoch` without one. An incomplete last batch is left out, unless it is the
        only one.
        """
        trainer = self.trainer
        epoch, rank, world_size = (
            (trainer.current_epoch, trainer.global_rank, trainer.world_size) if trainer else (self.epoch, 0, 1)
        )
        samples = self.splits.train
        sampler = EpochSampler(len(samples), seed=self.seed, epoch=epoch, rank=rank, world_size=world_size)
        return self._loader(samples, self.transform.train(), self.batch_size, sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the held-out images, in a fixed order."""
        return self._loader(self.splits.held_out, self.transform.evaluate(), self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test images in a fixed order; of the held-out ones where the folder has no `val`."""
        return self._loader(self.splits.test, self.transform.evaluate(), self.eval_batch_size)

    def held_out(self) -> Iterable[Batch]:
        """The batches of `val_dataloader`, decoded once and kept, for callers that evaluate many networks.

        A split larger than `cache_mib` is decoded again each time it is iterated.
        """
        return self._keep("held_out", self.val_dataloader())

    def test(self) -> Iterable[Batch]:
        """The batches of `test_dataloader`, kept like those of `held_out`."""
        same = self.splits.test is self.splits.held_out
        return self.held_out() if same else self._keep("test", self.test_dataloader())

    def test_share(self, rank: int, world_size: int) -> Iterable[Batch]:
        """This process's share of `test`: every `world_size`-th batch, from `rank` on, just as one process has it."""
        if world_size == 1:
            return self.test()
        whole = self.test_dataloader()
        batches = list(BatchSampler(SequentialSampler(self.splits.test), self.eval_batch_size, drop_last=False))
        share = DataLoader(whole.dataset, batch_sampler=batches[rank::world_size], num_workers=self.num_workers)
        return self._keep(f"test {rank}/{world_size}", share)

    def calibration_images(self) -> Sequence[Tensor]:
        """Batches `(N, C, H, W)` of training images as evaluation sees them; decoded once and kept.

        They come first in the training part of the permutation, so `split_seed` decides them and runs with different
        seeds calibrate alike. A small training split gives fewer.
        """
        samples = self.splits.train[: self.calibration_batches * self.calibration_batch_size]
        loader = self._loader(samples, self.transform.evaluate(), self.calibration_batch_size)
        if "calibration" not in self._decoded:
            self._decoded["calibration"] = list(loader)
        return [images for images, _ in self._decoded["calibration"]]

    def _keep(self, name: str, loader: DataLoader[Any]) -> Iterable[Batch]:
        if name not in self._decoded:
            images: Any = loader.dataset
            mib = len(images) * 3 * self.transform.size**2 * 4 / 2**20
            if mib > self.cache_mib:
                return loader
            self._decoded[name] = [(images, labels) for images, labels in loader]
        return self._decoded[name]

    def _images(self, samples: Sequence[Sample], transform: Transform) -> Images:
        return Images(samples, transform)

    def _loader(
        self, samples: Sequence[Sample], transform: Transform, batch_size: int, sampler: EpochSampler | None = None
    ) -> DataLoader[Any]:
        return DataLoader(
            self._images(samples, transform),
            batch_size=batch_size,
            sampler=sampler,
            drop_last=sampler is not None and len(sampler) >= batch_size,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            # without its own generator a loader draws from the global one, and what follows depends on how often it ran
            generator=torch.Generator().manual_seed(self.seed),
        )


class _Part(NamedTuple):
    """The images of one split, and where they lie."""

    source: Path
    classes: list[str]
    samples: Sequence[Sample]


def _read_splits(root: Path, holdout: int | float, split_seed: int) -> Splits:
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


def _read_part(root: Path, folder: str, tar: str) -> _Part | None:
    """A split from its folder or, without one, from its tar file; None where there is neither."""
    if (root / folder).is_dir():
        return _read_folder(root / folder)
    return _Part(root / tar, *read_tar(root / tar)) if (root / tar).is_file() else None


def _read_folder(folder: Path) -> _Part:
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
    return _Part(folder, found.classes, found.samples)


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


def _at_least(low: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < low:
            raise ConfigError(f"data.{name} is {value}; allowed: {low} or more")
