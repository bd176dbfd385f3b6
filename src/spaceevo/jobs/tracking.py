"""Results of jobs, sent to W&B where that logger is on; Lightning logs the steps of training itself."""

import csv
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from spaceevo.artifacts import StageResult
from spaceevo.errors import MissingExtraError

MOST_ROWS = 10_000  # of a table: W&B shows no more


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


def track(
    config: DictConfig,
    overrides: Sequence[str],
    result: StageResult,
    folder: Path,
    run_name: str,
    *,
    keeps_run: bool = False,
) -> None:
    """Send a result as a W&B run of its own, or with `keeps_run` to that which is open; its files lie in `folder`.

    Numbers and texts are its summary, rows and CSV files its tables, PNG files its images, all settings and the command
    line's overrides its config.
    """
    from spaceevo.torchvision_shim import ensure_torchvision  # it imports torch, which jobs without a network lack

    ensure_torchvision()  # Lightning's loggers are imported now
    from spaceevo.lit.trainer import end_open_run

    if not keeps_run:
        end_open_run()
    logger = instantiate(config.logger, save_dir=str(folder), name=config.logger.name or run_name)
    logger.log_hyperparams({**result.settings, "seed": result.seed, "overrides": list(overrides)})
    for name, rows in _tables(result).items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        logger.log_table(key=name, columns=columns, data=[[row.get(c) for c in columns] for row in rows])
    for name, path in result.outputs.items():
        if Path(path).suffix == ".png":
            logger.log_image(key=name, images=[path])
    for name, value in result.figures.items():
        if isinstance(value, int | float | str):
            logger.experiment.summary[name] = value
    logger.experiment.finish()


def _tables(result: StageResult) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The rows among the figures, and of CSV files that no figure has, by name."""
    found: dict[str, Sequence[Mapping[str, Any]]] = {
        name: value
        for name, value in result.figures.items()
        if isinstance(value, list) and value and isinstance(value[0], dict)
    }
    for name, path in result.outputs.items():
        if Path(path).suffix == ".csv":
            with Path(path).open(newline="", encoding="utf-8") as file:
                rows = [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]
            if rows and len(rows) <= MOST_ROWS:
                found.setdefault(name, rows)
    return found


def _value(text: str) -> float | str | None:
    """A number where the text is one, None where there is none."""
    try:
        return float(text) if text else None
    except ValueError:
        return text
