"""Results of jobs, sent to W&B where that logger is on; Lightning logs the steps of training itself."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from spaceevo.artifacts import StageResult
from spaceevo.errors import MissingExtraError


def is_tracked(config: DictConfig) -> bool:
    """Return whether results go to W&B.

    Raises:
        MissingExtraError: they should, and the package is not installed.
    """
    logger = config.get("logger")
    tracked = bool(logger) and str(logger._target_).endswith("WandbLogger")
    if tracked and find_spec("wandb") is None:
        raise MissingExtraError("wandb", "wandb")
    return tracked


def track(config: DictConfig, overrides: Sequence[str], result: StageResult, folder: Path) -> None:
    """Send a result as a W&B run of its own, whose files are kept in `wandb/` of `folder`.

    Numbers and texts are its summary, rows its tables, PNG files its images, the command line's overrides its settings.
    """
    from spaceevo.torchvision_shim import ensure_torchvision  # it imports torch, which jobs without a network lack

    ensure_torchvision()  # Lightning's loggers are imported now
    from spaceevo.lit.trainer import end_open_run

    end_open_run()
    own = f"{result.stage}/{folder.name}" if folder.name.isdecimal() else result.stage  # jobs of a sweep are numbered
    logger = instantiate(config.logger, save_dir=str(folder), name=config.logger.name or own)
    logger.log_hyperparams({"seed": result.seed, "overrides": list(overrides)})
    for name, value in result.figures.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            columns = list(value[0])
            logger.log_table(key=name, columns=columns, data=[[row.get(c) for c in columns] for row in value])
        elif isinstance(value, int | float | str):
            logger.experiment.summary[name] = value
    for name, path in result.outputs.items():
        if Path(path).suffix == ".png":
            logger.log_image(key=name, images=[path])
    logger.experiment.finish()
