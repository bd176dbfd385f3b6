"""A Lightning trainer, its settings checked, with progress on the terminal."""

import inspect
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import Logger

from spaceevo.artifacts import Neutral
from spaceevo.errors import ConfigError, choices
from spaceevo.terminal import console

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
PLACE = Neutral("says where the same arithmetic runs")
SHOWN = Neutral("says what is shown and logged")


def make_trainer(
    *,
    folder: Path,
    epochs: int,
    callbacks: Sequence[Callback] = (),
    logger: Logger | None = None,
    accelerator: Annotated[str, PLACE] = "auto",
    strategy: Annotated[str, PLACE] = "auto",
    devices: int | str | list[int] = 1,
    enable_model_summary: Annotated[bool, SHOWN] = False,
    log_every_n_steps: Annotated[int, SHOWN] = 10,
    num_sanity_val_steps: Annotated[int, Neutral("nothing is validated while training")] = 0,
    limit_val_batches: Annotated[int | float, Neutral("nothing is validated while training")] = 0,
    **settings: Any,
) -> Trainer:
    """Make a trainer that leaves what it writes in `folder`; further settings are Lightning's own.

    `logger` takes the losses; `precision` is one of `PRECISIONS`. Those named here cannot change a result.

    Raises:
        ConfigError: Lightning does not know a setting, refuses it, or would silently replace it.
    """
    _check_names(settings)
    bars = [RichProgressBar(leave=False)] if console.is_terminal else []
    try:
        trainer = Trainer(
            default_root_dir=folder,
            max_epochs=epochs,
            callbacks=[*callbacks, *bars],
            logger=logger or False,
            enable_progress_bar=bool(bars),
            accelerator=accelerator,
            strategy=strategy,
            devices=devices,
            enable_model_summary=enable_model_summary,
            log_every_n_steps=log_every_n_steps,
            num_sanity_val_steps=num_sanity_val_steps,
            limit_val_batches=limit_val_batches,
            **settings,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:  # more processes than devices, a misspelt word
        raise ConfigError(f"trainer: {' '.join(str(error).split())}; set trainer.*") from error
    _check(trainer, str(settings.get("precision")))
    return trainer


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
    started = int(os.environ.get("WORLD_SIZE", trainer.world_size))
    if started != trainer.world_size:
        raise ConfigError(
            f"torchrun started {started} processes, the trainer is set for {trainer.world_size}; add trainer=ddp, "
            "or set trainer.devices (processes on a machine) and trainer.num_nodes (machines)"
        )
