"""One job: compose, train or leave the work to the stage's callback."""

from __future__ import annotations

import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from spaceevo.artifacts import Layout, StageResult, fingerprint
from spaceevo.collectives.processes import is_first
from spaceevo.errors import ConfigError, choices
from spaceevo.space.description import parse_description
from spaceevo.stages.base import console, package_versions, plain, report

WHERE = ("accelerator", "devices", "num_nodes", "strategy")
"""Settings of a trainer that say where it runs; they leave artefacts current."""
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def run(config: DictConfig) -> StageResult | None:
    """Run a training stage; the others do their work as callbacks, when this returns."""
    if threads := config.recipe.threads:
        import torch

        torch.set_num_threads(threads)
    return train(config) if "train" in config.stage else None


def _quiet_libraries() -> None:
    """Keep libraries' notes about themselves out of the way of the program's own lines; called after their import."""
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torch|onnxscript)(\\..*)?")
    for name in logging.root.manager.loggerDict:
        if name.startswith(("pytorch_lightning", "lightning", "onnxscript", "matplotlib")):
            logging.getLogger(name).setLevel(logging.ERROR)


def train(config: DictConfig) -> StageResult:
    """Train what the stage trains; write and print its result."""
    from spaceevo.lit.base import QuantConfig, TrainingRun

    _quiet_libraries()
    started, output = time.monotonic(), Path(config.paths.output)
    described = plain(config, "superspace", "data", "teacher", "quant", "seed", "trainer", "recipe")
    described["recipe"] = dict(described["recipe"][config.stage.name][config.quant.precision])
    described["recipe"].pop("guard", None)  # what happens at a fault does not change a faultless result
    described["trainer"] = {k: v for k, v in described["trainer"].items() if k not in WHERE}
    training = TrainingRun(
        data=instantiate(config.data),
        superspace=parse_description(described["superspace"], source=str(config.superspace.name)),
        teacher=instantiate(config.teacher),
        quant=QuantConfig(config.quant.name),
        layout=Layout(Path(config.paths.checkpoints)),
        output=output,
        seed=int(config.seed),
        make_trainer=lambda folder, epochs, callbacks: make_trainer(config, folder, epochs, callbacks),
        describe=described,
        announce=console.print if is_first() else lambda line: None,
    )
    instantiate(config.stage.train)(training)
    result = StageResult(
        stage=config.stage.name,
        fingerprint=fingerprint(described),
        seed=int(config.seed),
        figures=training.figures,
        outputs={name: str(path) for name, path in training.made.items()},
        versions=package_versions(),
        seconds=round(time.monotonic() - started, 1),
    )
    if is_first():
        result.save(output)
        if training.trained:
            report(result, output, _next_command(config))
    return result


def _next_command(config: DictConfig) -> str:
    """The command that follows this one, for the same space; none where the stage says it itself."""
    if config.stage.next is None:
        return ""
    command = str(config.stage.next[config.quant.precision])
    return command if config.space is None else f"{command} space={config.space}"


def make_trainer(config: DictConfig, folder: Path, epochs: int, callbacks: list[Any]) -> Any:
    """A Lightning trainer with the configured logger; progress by rich."""
    from lightning_fabric.utilities.exceptions import MisconfigurationException
    from pytorch_lightning.callbacks import RichProgressBar

    folder.mkdir(parents=True, exist_ok=True)
    logger: Any = False
    if config.logger:
        unnamed = {} if config.logger.name else {"name": f"{config.stage.folder}/{folder.name}"}
        logger = instantiate(config.logger, save_dir=str(folder), **unnamed)
    bars = [RichProgressBar(leave=False)] if console.is_terminal else []
    trainer = instantiate(config.trainer, max_epochs=min(epochs, config.max_epochs or epochs), logger=logger)
    try:
        made = trainer(default_root_dir=str(folder), callbacks=[*callbacks, *bars], enable_progress_bar=bool(bars))
    except (MisconfigurationException, ValueError) as error:  # more processes than devices, an unknown precision, …
        raise ConfigError(f"trainer: {' '.join(str(error).split())}; set trainer.*") from error
    _check_trainer(made, str(config.trainer.precision))
    return made


def _check_trainer(trainer: Any, precision: str) -> None:
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


def run_stage(overrides: list[str]) -> StageResult:
    """Run one stage in this process, inside a running job (for the pipeline)."""
    config = hydra.compose("config", overrides=overrides, return_hydra_config=True)
    folder = Path(config.paths.root) / config.stage.folder
    config = hydra.compose("config", overrides=[*overrides, f"paths.output={folder}"], return_hydra_config=True)
    if "train" in config.stage:
        return train(config)
    callback: Any = instantiate(config.hydra.callbacks[config.stage.name])
    result: StageResult = callback.execute(config)
    return result
