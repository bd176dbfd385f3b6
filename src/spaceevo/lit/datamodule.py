"""One data module for every stage: an image folder, a held-out part, and batches that only seed and epoch decide."""

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from annotated_types import Le
from pydantic import Strict
from pydantic.dataclasses import dataclass
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from spaceevo.artifacts import Neutral, fingerprint
from spaceevo.artifacts.values import Amount, Count, Index, InnerShare, Seed
from spaceevo.collectives.launcher import is_first
from spaceevo.errors import DataError
from spaceevo.lit.content import file_digests
from spaceevo.lit.decoded import DecodedCache
from spaceevo.lit.epochs import EpochSampler
from spaceevo.lit.listing import Sample, Source
from spaceevo.lit.splits import Splits, read_splits
from spaceevo.lit.tars import TarImage
from spaceevo.lit.transforms import Images, ImageTransform, Load, Transform, load_image
from spaceevo.terminal import console, told

# Torch counts the processors of this process; how many loaders pay is the user's to say.
warnings.filterwarnings("ignore", message="This DataLoader will create")
Batch = tuple[Tensor, Tensor]
LOADING = Neutral("says how images are loaded, not which")
Workers = Annotated[Index, Le(512)]  # Each is a process


@dataclass(kw_only=True, eq=False, repr=False)
class ImageFolderDataModule(LightningDataModule):
    """Loads images of a folder `root/train/<class>/*` and `root/val/<class>/*`, or of two tars, classes sorted by name.

    Part of `train` is held out for validation: the first ones of a seeded permutation; the others are trained on.
    `val` is the test split; without it the held-out images serve as test too. A folder that holds the classes directly
    counts as `train`. Images come at one size, the largest; elastic networks resize on their device. Only the training
    split is shared out between processes: every process evaluates all images, so use `use_distributed_sampler=False`.
    """

    root: Annotated[Path, Neutral("the images count by their content, wherever they lie")]
    transform: ImageTransform
    batch_size: Count = 64  # images a training batch, in each process
    # images a batch of the held-out and test splits
    eval_batch_size: Annotated[Count, Neutral("networks in eval mode treat each image by itself")] = 256
    num_workers: Annotated[Workers, LOADING] = 0  # loader processes; 0 loads in this one
    prefetch_factor: Annotated[Count, LOADING] = 2  # batches that each of them loads ahead
    # held-out images: a count, or a share between 0 and 1 (at least one image)
    holdout: Annotated[Count, Strict()] | InnerShare = 0.04
    split_seed: Seed = 2147483647  # decides which images are held out
    train_images: Count | None = None  # most that are trained on
    test_images: Count | None = None  # most that are held out, and most that are tested on
    seed: Seed = 0  # decides training order and augmentation
    calibration_batches: Count = 20  # how many `calibration_images` gives
    calibration_batch_size: Count = 64  # images in each; only the product of both decides statistics (`even_groups`)
    cache_mib: Annotated[Index, LOADING] = 2048  # largest split that is kept in memory, transformed
    decoded_cache: Annotated[Path | None, LOADING] = None  # folder of decoded images; None decodes them each time
    decoded_cache_gib: Annotated[Amount, LOADING] = 200.0  # most that it takes
    prepare: Callable[[Path], object] | None = None  # writes images to `root` if they are absent, before it is read

    epoch = 0  # Epoch of the next training loader, where no trainer is attached to tell it

    def __post_init__(self) -> None:
        super().__init__()
        self.root = self.root.expanduser()
        folder, limit = self.decoded_cache, self.decoded_cache_gib
        self.decoded = None if folder is None else DecodedCache(folder, limit, self.transform)
        self.outputs: tuple[int, ...] = ()  # by label, what `label_as` gives for it; empty where labels are as they are
        self._kept: dict[str, Sequence[Batch]] = {}
        self._training: dict[tuple[int, int], DataLoader[Any]] = {}
        self._done = 0, 0  # an epoch, and how many batches of it a killed run had had

    @cached_property
    def splits(self) -> Splits:
        """The files of each split, read on first use and then told in one line; see `read_splits` for faults."""
        self.prepare_data()
        splits = self._read_splits().at_most(self.train_images, self.test_images)
        if is_first():
            console.print(str(splits))
        return splits

    def _read_splits(self) -> Splits:
        return read_splits(self.root, self.holdout, self.split_seed)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted; a label is a position in them."""
        return self.splits.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def label_as(self, outputs: Sequence[int]) -> None:
        """Label images from now on as a network's outputs: `outputs[label]` for the label of their class here."""
        self.outputs = tuple(outputs)
        self._kept.clear()
        self._training.clear()

    @cached_property
    def content_hash(self) -> str:
        """A hash of the images with their splits, labels and class names; it does not depend on where they lie.

        Raises:
            DataError: the images are not there, or cannot be read.
        """
        files = self.content_files()
        digests = file_digests(files.values())
        told = {name: digests[str(path)] for name, path in files.items()}
        named = {
            part: [(self.content_name(image), label) for image, label in getattr(self.splits, part)]
            for part in ("train", "held_out", "test")
        }
        return fingerprint([self.splits.classes, named, told])

    def content_files(self) -> dict[str, Path]:
        """Return the files that hold the images, by names that do not depend on where `root` lies."""
        images = (image for part in (self.splits.train, self.splits.held_out, self.splits.test) for image, _ in part)
        files = dict.fromkeys(Path(image.tar if isinstance(image, TarImage) else image) for image in images)
        return {os.path.relpath(file, self.root): file for file in files}

    def content_name(self, image: Source) -> str:
        """Return an image's name within its dataset."""
        return image.name if isinstance(image, TarImage) else os.path.relpath(image, self.root)

    def prepare_data(self) -> None:
        """Let `prepare` write the images if they are absent."""
        if self.prepare is not None:
            self.prepare(self.root)

    def setup(self, stage: str | None = None) -> None:
        """Read the folder, so that its faults show before anything else starts; a training then begins anew."""
        _ = self._calibration
        self._done = 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Keep how far the training is: the epoch, and the batches of it that were trained on."""
        assert self.trainer is not None
        return {"done": divmod(self.trainer.global_step, int(self.trainer.num_training_batches))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Leave these batches out of that epoch; a trainer calls this after `setup`."""
        self._done = state_dict["done"]

    def train_dataloader(self) -> DataLoader[Any]:
        """Load augmented training batches of one epoch, this process's share of them.

        The epoch is the trainer's, or `self.epoch` without one. An incomplete last batch is left out, unless it is the
        only one.
        """
        trainer = self.trainer
        epoch = trainer.current_epoch if trainer else self.epoch
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        if (rank, world_size) not in self._training:
            sampler = EpochSampler(len(self.splits.train), seed=self.seed, rank=rank, world_size=world_size)
            self._training[rank, world_size] = self._loader(
                self.splits.train,
                self.transform.train(),
                sampler=sampler,
                batch_size=self.batch_size,
                drop_last=len(sampler) >= self.batch_size,
                # A trainer asks anew every epoch; the workers stay, since starting them takes as long as many a batch.
                persistent_workers=self.num_workers > 0,
            )
        loader = self._training[rank, world_size]
        done_epoch, batches = self._done
        sampler = cast(EpochSampler, loader.sampler)
        sampler.done = done_epoch, batches * self.batch_size
        sampler.set_epoch(epoch)
        return loader

    def val_dataloader(self) -> DataLoader[Any]:
        """Load batches of the held-out images, in a fixed order."""
        return self._evaluation(self.splits.held_out, batch_size=self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Load batches of the test images in a fixed order; of the held-out ones where the folder has no `val`."""
        return self._evaluation(self.splits.test, batch_size=self.eval_batch_size)

    def held_out(self) -> Iterable[Batch]:
        """Return the batches of `val_dataloader`, decoded once and kept, for callers that evaluate many networks.

        A split larger than `cache_mib` is decoded again each time it is iterated.
        """
        return self._keep("held_out", self.val_dataloader())

    def test(self) -> Iterable[Batch]:
        """Return the batches of `test_dataloader`, kept like those of `held_out`."""
        same = self.splits.test is self.splits.held_out
        return self.held_out() if same else self._keep("test", self.test_dataloader())

    def test_share(self, rank: int, world_size: int) -> Iterable[Batch]:
        """Return this process's share of `test`: every `world_size`-th batch from `rank` on, as one process has it."""
        if world_size == 1:
            return self.test()
        batches = list(BatchSampler(SequentialSampler(self.splits.test), self.eval_batch_size, drop_last=False))
        share = self._evaluation(self.splits.test, batch_sampler=batches[rank::world_size])
        return self._keep(f"test {rank}/{world_size}", share)

    def calibration_images(self) -> Sequence[Tensor]:
        """Return batches `(N, C, H, W)` of training images as evaluation sees them; decoded once and kept.

        They come first in the training part of the permutation, so `split_seed` decides them and runs with different
        seeds calibrate alike. A small training split gives fewer. Statistics do not depend on how they are cut.
        """
        if "calibration" not in self._kept:
            loader = self._evaluation(self._calibration, batch_size=self.calibration_batch_size)
            self._kept["calibration"] = list(told(loader, "images to calibrate on, batches", len(loader)))
        return [images for images, _ in self._kept["calibration"]]

    @property
    def calibrated_on(self) -> int:
        """The number of images that batch norm is recalibrated on."""
        return len(self._calibration)

    @property
    def tested_on(self) -> int:
        """The number of images that networks are tested on."""
        return len(self.splits.test)

    @property
    def _calibration(self) -> Sequence[Sample]:
        """The images that batch norm is recalibrated on; a `DataError` where there are not two of them."""
        samples = self.splits.train[: self.calibration_batches * self.calibration_batch_size]
        if len(samples) < 2:
            raise DataError(
                f"batch norm cannot be recalibrated on {len(samples)} image; data {self.root} has "
                f"{len(self.splits.train)} to train on, of which {self.calibration_batches} (calibration_batches) × "
                f"{self.calibration_batch_size} (calibration_batch_size) are taken; 2 are needed at least"
            )
        return samples

    def _keep(self, name: str, loader: DataLoader[Any]) -> Iterable[Batch]:
        if name not in self._kept:
            images: Any = loader.dataset
            mib = len(images) * self.transform.channels * self.transform.size**2 * 4 / 2**20
            if mib > self.cache_mib:
                return loader
            self._kept[name] = list(told(loader, f"images of {name}, batches", len(loader)))
        return self._kept[name]

    def _load(self) -> Load:
        """What decodes an image; it travels to the loader's workers."""
        return partial(load_image, how=self.transform) if self.decoded is None else self.decoded.load

    def open_some(self, most: int) -> int:
        """Open so many images, evenly spread over all splits, and return their number; a broken one raises."""
        every = [*self.splits.train, *self.splits.held_out, *self.splits.test]
        some = every[:: -(-len(every) // most)]
        load = self._load()
        return sum(load(image) is not None for image, _ in some)

    def _evaluation(self, samples: Sequence[Sample], **batching: Any) -> DataLoader[Any]:
        return self._loader(samples, self.transform.evaluate(), **batching)

    def _loader(self, samples: Sequence[Sample], transform: Transform, **batching: Any) -> DataLoader[Any]:
        every = [*self.splits.train, *self.splits.held_out, *self.splits.test]
        named = [(image, self.outputs[label]) for image, label in samples] if self.outputs else samples
        return DataLoader(
            Images(named, transform, self._load(), every),
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor if self.num_workers else None,
            pin_memory=torch.cuda.is_available(),
            # without its own generator a loader draws from the global one, and what follows depends on how often it ran
            generator=torch.Generator().manual_seed(self.seed),
            **batching,
        )
