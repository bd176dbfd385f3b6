"""What the jobs that train have in common: their settings, and the training these amount to."""

import logging
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from torch import nn

from spaceevo.artifacts import Component, Makes, Neutral, Plain, write_csv
from spaceevo.artifacts.values import ShareBelow1
from spaceevo.artifacts.work import TRAINED, Amount, Extent, Scale
from spaceevo.collectives.launcher import is_first, launched
from spaceevo.lit.curve import EVALUATIONS, STEPS
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.kept import SAVES
from spaceevo.lit.matching import check_shape, check_transform, evaluation_settings, match_images
from spaceevo.lit.module import Callback, MultiPassModule, Recipe, Trainer
from spaceevo.lit.training import Figures, Trainee, Training
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.nn.evaluate import top1
from spaceevo.nn.loading import read_checkpoint
from spaceevo.quant.quantizer import DEPLOY, Scheme, quant_scheme
from spaceevo.report.training import draw_training
from spaceevo.stages.job import Input, Made, Outcome, file_input, images_input
from spaceevo.stages.selection import SuperspaceJob
from spaceevo.stages.settings import Count, NetworkSettings
from spaceevo.terminal import console

Share = ShareBelow1
LOGGER = Makes("pytorch_lightning.loggers.Logger")
STEADY = 1e-9  # learning rate that leaves weights as they are, whatever the few images of a batch


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(NetworkSettings):
    """Says how networks are trained: fp32 ones anew, INT8 ones from the fp32 weights."""

    recipe: Component[Recipe]  # epochs, optimiser, schedule
    trainer: Component[Trainer]  # makes Lightning's trainer
    # takes losses and rates; None logs nothing
    logger: Annotated[Component[Any] | None, Neutral("records what happens"), LOGGER]
    max_epochs: Count | None  # cuts the recipe short


S = TypeVar("S", bound=TrainingSettings, covariant=True)


class TrainingJob(SuperspaceJob[S]):
    """Trains networks into checkpoints, each of which has a fingerprint of its own."""

    main_figure = "top1"
    trains = True
    is_parallel = True
    data = Made[ImageFolderDataModule]()

    def check(self) -> None:
        """Tell also what the optimiser refuses."""
        super().check()
        _ = self.recipe

    @property
    def int8(self) -> bool:
        """Whether INT8 networks are trained."""
        return self.settings.int8

    @property
    def precision(self) -> str:
        """The precision as keys of figures have it."""
        return "int8" if self.int8 else "fp32"

    @property
    def scheme(self) -> Scheme:
        """Scheme of the quantisers; fp32 networks carry those of `deploy`, switched off."""
        return quant_scheme(self.settings.quant) if self.int8 else DEPLOY

    @cached_property
    def recipe(self) -> Recipe:
        """How networks are trained, cut short where `max_epochs` says so."""
        recipe = self.workspace.make(self.settings.recipe)
        epochs = min(recipe.epochs, self.settings.max_epochs or recipe.epochs)
        return replace(recipe, epochs=epochs, warmup_epochs=recipe.warmup_epochs * epochs / recipe.epochs)

    @property
    def resolution(self) -> int:
        """The largest resolution in pixels that networks resize images to; 1 where they take them as they are."""
        return 1

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that are learned, by output or label."""
        return self.data.classes

    @abstractmethod
    def starts(self) -> dict[str, Path]:
        """Return the checkpoints that training starts from, by name."""

    def inputs(self) -> Mapping[str, Input]:
        """Return the images and the checkpoints that training starts from; jobs add what else they read.

        Raises:
            ConfigError: the images are smaller than the networks' resolution, or have other channels.
        """
        self.data.setup()  # its faults are told first
        check_shape(self.data, self.superspace, self.resolution)
        starts = {name: file_input(path) for name, path in self.starts().items()}
        return {**super().inputs(), "images": images_input(self.data), **starts}

    @property
    def evaluated_images(self) -> int:
        """The number of images that a look at the networks takes: here those that are tested on."""
        return self.data.tested_on

    @property
    def passes(self) -> int:
        """The number of passes of a step, each with all images of a batch; here one."""
        return 1

    @property
    def networks(self) -> int:
        """The number of networks; here one."""
        return 1

    @property
    def trainings(self) -> int:
        """The number of trainings, one after the other; here one."""
        return 1

    def amounts(self) -> Mapping[str, Amount]:
        """Return the steps, the looks at the networks and the states saved; what was trained before counts as well."""
        recipe, batch = self.recipe, self.data.batch_size
        images = -(-len(self.data.splits.train) // launched("WORLD_SIZE", 1))
        batches, most = max(1, images // batch), self.settings.trainer.node.get("limit_train_batches")
        steps = batches if most is None else min(batches, most) if isinstance(most, int) else int(batches * most)
        looks = 1 + ((recipe.epochs - 1) // recipe.validate_every if recipe.validate_every else 0)
        return {
            STEPS: Amount(self.networks * recipe.epochs * steps, TRAINED * self.passes * min(batch, images)),
            EVALUATIONS: Amount(self.networks * looks, self.evaluated_images),
            SAVES: Amount(self.trainings * recipe.epochs),
        }

    def scales(self) -> Sequence[Scale]:
        """Return the epochs; the warm-up keeps its share of them."""
        along = {"recipe.warmup_epochs": float(self.recipe.warmup_epochs)}
        return [Scale("recipe.epochs", self.recipe.epochs, (STEPS, EVALUATIONS, SAVES), along)]

    def reduced(self, extent: Extent) -> Mapping[str, Plain]:
        """Take a few steps of one epoch, and leave the weights as they are."""
        return {
            "max_epochs": 1,
            "trainer.limit_train_batches": 1 + extent.repeats,
            "recipe.optimizer.lr": STEADY,
        }

    @cached_property
    def training(self) -> Training:
        """Trains networks of this job."""
        _quiet_libraries()
        return Training(
            data=self.data,
            output=self.workspace.output,
            seed=self.settings.seed,
            make_trainer=self._make_trainer,
            say=console.print if is_first() else lambda _: None,
        )

    def trainee(
        self, name: str, target: Path, starts: Mapping[str, Path], meta: CheckpointMeta, besides: Sequence[str] = ()
    ) -> Trainee:
        """Describe one network of this job.

        Args:
            name: shown to the user.
            target: the checkpoint it ends in.
            starts: the checkpoints that decide it.
            meta: what to keep beside the weights; the classes and what images go through are added here.
            besides: settings that decide which networks are trained, and not what becomes of this one.
        """
        deciding: dict[str, Plain] = {
            key: value for key, value in self.identity.items() if key.split(".")[0] not in besides
        }
        deciding |= {"images": self.data.content_hash}
        deciding |= {key: file_input(path).state(None) for key, path in starts.items()}
        meta = replace(meta, classes=self.classes, transform=evaluation_settings(self.data))
        return Trainee(name, target, deciding, meta)

    def outcome(self, figures: Mapping[str, Any], following: str) -> Outcome:
        """Tell what was found; `top1`, which sweeps compare, has another name beside it that says whose it is."""
        shown = tuple(name for name in figures if name != "top1")
        files = {**self.training.made, **self._curves()} if is_first() else self.training.made
        return Outcome({**figures}, files, following, self.training.device, shown)

    def _curves(self) -> dict[str, Path]:
        """Write and draw the curves of what was trained now, in the folder of its run."""
        found: dict[str, Path] = {}
        for label, rows in self.training.curves.items():
            file = self.workspace.output / label / "training.csv"
            write_csv(file, rows)
            draw_training(file.with_suffix(".png"), rows)
            found |= {f"{label}_curve": file, f"{label}_picture": file.with_suffix(".png")}
        return found

    @property
    def keeps_run(self) -> bool:
        """Whether all was trained in one run."""
        return len(self.training.curves) == 1

    def load_fp32(self, network: nn.Module, path: Path, what: str, *changes: str) -> None:
        """Load the fp32 weights `what` that an INT8 network starts from; `changes` lead this job to making them.

        Raises:
            MissingArtifactError: they are not there.
            ConfigError: they were trained on images that went through something else.
        """
        command = self.workspace.commands(self.name, *changes)
        weights = read_checkpoint(path, what, command)
        check_transform(self.data, weights.meta, str(path))
        weights.load_into(network, int8=False)

    def _make_trainer(self, folder: Path, epochs: int, callbacks: Sequence[Callback], run_id: str) -> Trainer:
        folder.mkdir(parents=True, exist_ok=True)
        logger = self.settings.logger
        if logger is not None:
            run = self.workspace.run_name
            name = logger.node.get("name") or (run if folder.name in run.split("/") else f"{run}/{folder.name}")
            # what a logger calls its run by, where its configuration asks for it: a run that goes on is the same run
            ids = {key: run_id for key in ("id", "version") if logger.node.get(key, run_id) is None}
            logger = Component({**logger.node, **ids, "save_dir": str(folder), "name": name})
        make: Any = self.workspace.make(self.settings.trainer)
        self.open_logger = logger and self.workspace.make(logger)
        trainer: Trainer = make(folder=folder, epochs=epochs, callbacks=callbacks, logger=self.open_logger)
        return trainer


class OneNetworkJob(TrainingJob[S]):
    """Trains one network; INT8 starts from its fp32 checkpoint."""

    @abstractmethod
    def checkpoint(self, int8: bool) -> Path:
        """Return where the network is left."""

    @property
    def outputs(self) -> int:
        """The number of the network's outputs."""
        return self.data.num_classes

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the network's classes by output; those of its fp32 weights, where it goes on from them.

        Raises:
            ConfigError: the images do not fit those weights.
        """
        fp32 = self.starts().get("fp32")
        if fp32 is None or not fp32.is_file():
            return self.data.classes
        weights = read_checkpoint(fp32, self.name, self.workspace.commands(self.name, "quant=off"))
        outputs = weights.num_classes or self.outputs
        return match_images(self.data, weights.meta, str(fp32), outputs, in_part=False)

    def starts(self) -> dict[str, Path]:
        """Return the fp32 checkpoint of an INT8 network."""
        return {"fp32": self.checkpoint(int8=False)} if self.int8 else {}

    def train(
        self, name: str, meta: CheckpointMeta, make: Callable[[], MultiPassModule], besides: Sequence[str] = ()
    ) -> Figures:
        """Train the network; return what is measured of it. The rest is as in `trainee`."""
        target = self.checkpoint(self.int8)
        trainee = self.trainee(f"{name}_{self.precision}", target, self.starts(), meta, besides)
        return self.training.fit(trainee, make, self.measure, anew=self.workspace.force)

    def measure(self, module: MultiPassModule) -> Figures:
        """Measure the trained network: top-1 on the test images, in percent."""
        return {"top1": top1(module.network, self.data.test())}


def _quiet_libraries() -> None:
    """Keep libraries' notes about themselves out of the way of the program's own lines; called after their import."""
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torch)(\\..*)?")
    for name in logging.root.manager.loggerDict:
        if name.startswith(("pytorch_lightning", "lightning", "matplotlib")):
            logging.getLogger(name).setLevel(logging.ERROR)
