"""What the jobs that train have in common: their settings, and the training these amount to."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Ge

from spaceevo.artifacts import Component, Neutral, Plain
from spaceevo.collectives.launcher import is_first
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.module import Callback, Recipe, Trainer
from spaceevo.lit.training import Trainee, Training
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.quant.quantizer import DEPLOY, Scheme, quant_scheme
from spaceevo.space.superspace import Superspace
from spaceevo.stages.inputs import images_input
from spaceevo.stages.job import Input, Job, Made
from spaceevo.stages.selection import read_superspace
from spaceevo.stages.settings import Quant
from spaceevo.terminal import console

Positive = Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Says what is trained on what, and how."""

    superspace: Mapping[str, Any]  # description of the superspace
    data: Component[ImageFolderDataModule]  # the images
    quant: Quant  # `off` trains fp32, a scheme's name trains INT8 from the fp32 weights
    seed: Annotated[int, Ge(0)]  # seed of everything random
    recipe: Component[Recipe]  # epochs, optimiser, schedule
    trainer: Component[Trainer]  # makes Lightning's trainer
    # takes losses and rates; None logs nothing
    logger: Annotated[Component[Any] | None, Neutral("records what happens")]
    max_epochs: Positive | None  # cuts the recipe short
    threads: Positive | None  # threads of torch; None leaves them to it


S = TypeVar("S", bound=TrainingSettings)


class TrainingJob(Job[S]):
    """Trains networks into checkpoints, each of which has a fingerprint of its own."""

    trains = True
    is_parallel = True
    data = Made[ImageFolderDataModule]()

    @property
    def int8(self) -> bool:
        """Whether INT8 networks are trained."""
        return self.settings.quant != "off"

    @property
    def precision(self) -> str:
        """The precision as keys of figures have it."""
        return "int8" if self.int8 else "fp32"

    @property
    def scheme(self) -> Scheme:
        """Scheme of the quantisers; fp32 networks carry those of `deploy`, switched off."""
        return quant_scheme(self.settings.quant) if self.int8 else DEPLOY

    @cached_property
    def superspace(self) -> Superspace:
        """The superspace."""
        return read_superspace(self.settings.superspace)

    @cached_property
    def recipe(self) -> Recipe:
        """How networks are trained, cut short where `max_epochs` says so."""
        recipe = self.workspace.make(self.settings.recipe)
        epochs = min(recipe.epochs, self.settings.max_epochs or recipe.epochs)
        return replace(recipe, epochs=epochs, warmup_epochs=recipe.warmup_epochs * epochs / recipe.epochs)

    def inputs(self) -> Mapping[str, Input]:
        """Return the images; jobs add what else they read."""
        return {"images": images_input(self.data)}

    @cached_property
    def training(self) -> Training:
        """Trains networks of this job."""
        _quiet_libraries()
        first = is_first()
        return Training(
            data=self.data,
            output=self.workspace.output,
            seed=self.settings.seed,
            make_trainer=self._make_trainer,
            say=lambda line: console.print(line) if first else None,
        )

    def trainee(
        self,
        name: str,
        target: Path,
        upstream: Mapping[str, Plain],
        meta: CheckpointMeta,
        besides: Sequence[str] = (),
    ) -> Trainee:
        """Describe one network of this job.

        Args:
            name: shown to the user.
            target: the checkpoint it ends in.
            upstream: states of the files that decide it.
            meta: what to keep beside the weights.
            besides: settings that decide which networks are trained, and not what becomes of this one.
        """
        settings = {key: value for key, value in self.identity.items() if key.split(".")[0] not in besides}
        images = {"images": self.data.content_hash}
        return Trainee(name, target, {**settings, **images, **upstream}, meta)

    def _make_trainer(self, folder: Path, epochs: int, callbacks: Sequence[Callback]) -> Trainer:
        folder.mkdir(parents=True, exist_ok=True)
        logger = self.settings.logger
        if logger is not None:
            name = logger.node.get("name") or f"{self.workspace.output.name}/{folder.name}"
            logger = Component({**logger.node, "save_dir": str(folder), "name": name})
        made = None if logger is None else self.workspace.make(logger)
        make: Any = self.workspace.make(self.settings.trainer)
        trainer: Trainer = make(folder=folder, epochs=epochs, callbacks=callbacks, logger=made)
        return trainer


def _quiet_libraries() -> None:
    """Keep libraries' notes about themselves out of the way of the program's own lines; called after their import."""
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torch|onnxscript)(\\..*)?")
    for name in logging.root.manager.loggerDict:
        if name.startswith(("pytorch_lightning", "lightning", "onnxscript", "matplotlib")):
            logging.getLogger(name).setLevel(logging.ERROR)
