"""What a job found, told to the experiment tracker that is chosen; Lightning logs the steps of training itself."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from spaceevo.artifacts import StageResult
from spaceevo.collectives.launcher import is_first
from spaceevo.errors import MissingExtraError, failure_line
from spaceevo.jobs.lineage import artefacts
from spaceevo.jobs.trackers import TRACKERS, Tracker
from spaceevo.stages.job import Job
from spaceevo.terminal import console

MOST_ROWS = 10_000  # of a table: W&B shows no more
CURVE_AXIS = "evaluation"  # a table that begins with this column is a curve over it
ENDED = "ended"  # how a run ended: WELL, or the line of its error
WELL = "well"


def is_tracked(config: DictConfig, job: Job[Any] | None = None) -> bool:
    """Return whether results go to a tracker: not what a job sees that only looks, however often it does.

    A CSV logger has the steps of training alone.

    Raises:
        MissingExtraError: they should, and the tracker's package is not installed.
    """
    if job is not None and job.only_looks:
        return False
    package = _tracker_name(config)
    if package and find_spec(package) is None:
        raise MissingExtraError(package, package)
    return bool(package)


def track(
    config: DictConfig,
    overrides: Sequence[str],
    result: StageResult,
    folder: Path,
    run_name: str,
    job: Job[Any] | None = None,
) -> None:
    """Send a result as a run of its own, or to that which the job's one network left open; files lie in `folder`.

    Numbers are its scalars, rows and CSV files its tables, rows by evaluation its curves too, PNG files its pictures,
    files read and made its lineage, all settings and the command line's overrides its configuration.
    """
    tracker = _tracker(config, folder, run_name, job if job is not None and job.keeps_run else None)
    tracker.settings({**result.settings, "seed": result.seed, "overrides": list(overrides)})
    for name, rows in _tables(result).items():
        tracker.table(name, rows)
        if CURVE_AXIS in rows[0]:
            tracker.curve(name, [{key: v for key, v in row.items() if _is_number(v)} for row in rows], CURVE_AXIS)
    for name, path in result.outputs.items():
        if Path(path).suffix == ".png":
            tracker.picture(name, Path(path))
    tracker.scalars({name: float(value) for name, value in result.figures.items() if _is_number(value)})
    tracker.texts({name: value for name, value in result.figures.items() if isinstance(value, str)} | {ENDED: WELL})
    root = Path(config.paths.root)
    read = [] if job is None else [found.path for found in job.inputs().values() if found.path is not None]
    for is_made, paths in ((False, read), (True, [Path(path) for path in result.outputs.values()])):
        for artefact in artefacts(paths, root):
            tracker.file(artefact, is_made=is_made)
    tracker.end()


@contextmanager
def failure_tracked(config: DictConfig, overrides: Sequence[str], job: Job[Any]) -> Iterator[None]:
    """Tell the tracker too with which line a job ends that fails, or is stopped, within this."""
    try:
        yield
    except BaseException as error:
        if is_first() and is_tracked(config, job):
            try:
                tracker = _tracker(config, job.workspace.output, job.workspace.run_name, job)
                tracker.settings({**job.identity, "overrides": list(overrides)})
                tracker.texts({ENDED: failure_line(error)})
                tracker.end(failed=True)
            except Exception as second:  # what went wrong first is told, whatever becomes of the tracker
                console.print(f"{job.name}: its tracker does not know of this end: {failure_line(second)}")
        raise


def _tracker_name(config: DictConfig) -> str:
    """The tracker that the configured logger belongs to; empty where it is none."""
    logger = config.get("logger")
    maker = str(logger._target_).lower().removesuffix("logger").removesuffix("_") if logger else ""
    return next((name for name in TRACKERS if maker.endswith(name)), "")


def _tracker(config: DictConfig, folder: Path, run_name: str, job: Job[Any] | None) -> Tracker:
    """What speaks to the run that a job left open, or to a new one."""
    from spaceevo.torchvision_shim import ensure_torchvision  # it imports torch, which jobs without a network lack

    ensure_torchvision()  # Lightning's loggers are imported now
    from spaceevo.lit.trainer import end_open_run

    logger = None if job is None else job.open_logger
    if logger is None:
        end_open_run()
        logger = instantiate(config.logger, save_dir=str(folder), name=config.logger.name or run_name)
    return TRACKERS[_tracker_name(config)](logger)


def _tables(result: StageResult) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The rows among the figures, and of CSV files that no figure has, by name; those of a folder are one table."""
    found: dict[str, Sequence[Mapping[str, Any]]] = {
        name: value
        for name, value in result.figures.items()
        if isinstance(value, list) and value and isinstance(value[0], dict)
    }
    for name, path in result.outputs.items():
        if name not in found and (rows := list(_rows(Path(path)))):
            found[name] = rows
    return {name: _thinned(name, rows) for name, rows in found.items()}


def _thinned(name: str, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Rows at even steps where there are too many for a tracker; says so."""
    step = -(-len(rows) // MOST_ROWS)
    if step > 1:
        console.print(f"{name}: {len(rows)} rows; the tracker is told one of {step}, the files have all")
    return rows[::step]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a CSV file, or of all in a folder with the file's name before them."""
    if path.is_dir():
        for part in sorted(path.glob("[!.]*.csv")):
            yield from ({"file": part.stem, **row} for row in _rows(part))
    elif path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            yield from ({key: _value(text) for key, text in row.items()} for row in csv.DictReader(file))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(text: str) -> float | str | None:
    """A number where the text is one, None where there is none."""
    try:
        return float(text) if text else None
    except ValueError:
        return text
