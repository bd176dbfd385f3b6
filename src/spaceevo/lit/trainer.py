"""A Lightning trainer, its settings checked, with progress on the terminal."""

import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, TypedDict, Unpack

from annotated_types import Ge, Le
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pydantic import StringConstraints
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import Logger

from spaceevo.artifacts import Neutral
from spaceevo.artifacts.values import MOST, Count, Index, Name, PositiveShare, Share
from spaceevo.errors import ConfigError, choices
from spaceevo.lit.lines import ProgressLines
from spaceevo.terminal import console

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
MOST_PROCESSES = 16  # On a machine of fewer processors; hundreds would start for minutes without a word
PLACE = Neutral("says where the same arithmetic runs")
SHOWN = Neutral("says what is shown and logged")
UNUSED = Neutral("nothing is validated while training")
Devices = Annotated[str, StringConstraints(pattern=r"^(auto|-?\d+(,\d+)*)$")]


class TrainerSettings(TypedDict, total=False):
    """Says what of Lightning's own settings takes which values, where Lightning looks late or not at all."""

    accelerator: Annotated[Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"], PLACE]
    strategy: Annotated[Name, PLACE]
    devices: Annotated[int, Ge(-1), Le(MOST)] | Devices | list[Index]
    num_nodes: Count
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16", 32, 16]
    deterministic: bool | Literal["warn"]
    limit_train_batches: Count | PositiveShare | None
    reload_dataloaders_every_n_epochs: Index
    use_distributed_sampler: bool
    enable_model_summary: Annotated[bool, SHOWN]
    log_every_n_steps: Annotated[Index, SHOWN]
    num_sanity_val_steps: Annotated[int, Ge(-1), Le(MOST), UNUSED]
    limit_val_batches: Annotated[Index | Share, UNUSED]


def make_trainer(
    *,
    folder: Path,
    epochs: int,
    callbacks: Sequence[Callback] = (),
    logger: Logger | None = None,
    **settings: Unpack[TrainerSettings],
) -> Trainer:
    """Make a trainer that leaves what it writes in `folder`; further settings are Lightning's own.

    `logger` takes the losses; `precision` is one of `PRECISIONS`.

    Raises:
        ConfigError: Lightning does not know a setting, refuses it, or would silently replace it.
    """
    end_open_run()
    _check_names(settings)
    shown: Callback = RichProgressBar(leave=False) if console.is_terminal else ProgressLines()
    try:
        trainer = Trainer(
            default_root_dir=folder,
            max_epochs=epochs,
            callbacks=[*callbacks, shown],
            logger=logger or False,
            enable_progress_bar=console.is_terminal,
            **settings,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:  # more processes than devices, a misspelt word
        raise ConfigError(f"trainer: {' '.join(str(error).split())}; set trainer.*") from error
    _check(trainer, str(settings.get("precision")))
    return trainer


def end_open_run() -> None:
    """End the W&B run that a network or job left open in this process: the next one would be written into it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


def _check_names(settings: Mapping[str, object]) -> None:
    known = inspect.signature(Trainer).parameters
    for name in settings.keys() - known.keys():
        near = get_close_matches(name, known, n=1) or known
        raise ConfigError(f"trainer.{name} is not a setting; allowed: {choices(near)}")


def _check(trainer: Trainer, precision: str) -> None:
    """Refuse what Lightning lets pass: half precision it would replace, and processes that would not work together."""
    if trainer.precision not in PRECISIONS or (precision in ("16", "16-mixed") and trainer.precision != "16-mixed"):
        on = trainer.strategy.root_device.type
        allowed = choices(name for name in PRECISIONS if name != "16-mixed" or on == "cuda")
        raise ConfigError(f"trainer.precision = {precision} on device {on}; allowed: {allowed}; set trainer.precision")
    most = max(MOST_PROCESSES, os.cpu_count() or 1)
    if trainer.num_devices > most:
        raise ConfigError(f"trainer.devices = {trainer.num_devices}; allowed: 1…{most} on this machine")
    started = int(os.environ.get("WORLD_SIZE", trainer.world_size))
    if started != trainer.world_size:
        raise ConfigError(
            f"torchrun started {started} processes, the trainer is set for {trainer.world_size}; add trainer=ddp, "
            "or set trainer.devices (processes on a machine) and trainer.num_nodes (machines)"
        )
