"""Lightning's logger for MLflow, whose runs go on under an id of ours."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger

RUN_TAG = "spaceevo.run"  # of a run: our id of it, since MLflow gives ids of its own
JOB_TAG = "spaceevo.job"
DATABASE = "sqlite:///"
URI_VARIABLE = "MLFLOW_TRACKING_URI"


def mlflow_logger(
    *,
    experiment_name: str,
    tracking_uri: str,
    job_type: str,
    save_dir: str = "",
    name: str | None = None,
    id: str | None = None,
) -> MLFlowLogger:
    """Make the logger of one run; the run that was begun under `id` goes on.

    Args:
        experiment_name: which runs of one chain share.
        tracking_uri: a server, or `sqlite:///` and the path of a database file, beside which files are kept.
        job_type: the job, as its folder is called.
        save_dir: folder of what only this run leaves; MLflow keeps nothing there.
        name: of the run.
        id: our id of the run; without, it is a new one.
    """
    del save_dir
    files = None
    if tracking_uri.startswith(DATABASE):
        database = Path(tracking_uri.removeprefix(DATABASE)).absolute()
        database.parent.mkdir(parents=True, exist_ok=True)
        files = database.with_suffix("").as_uri()
    client: Any = resolve_name("mlflow.tracking:MlflowClient")
    for library in ("alembic", "mlflow", "pytorch_lightning.loggers.mlflow"):  # each tells every step of a new database
        logging.getLogger(library).setLevel(logging.ERROR)
    tags = {JOB_TAG: job_type} | ({RUN_TAG: id} if id else {})
    logger = MLFlowLogger(
        experiment_name,
        name,
        tracking_uri,
        tags=tags,
        artifact_location=files,
        run_id=_run_id(client(tracking_uri), experiment_name, id),
    )
    goes_on = logger._run_id is not None
    with _environment_kept():
        experiment = logger.experiment
    if goes_on:
        experiment.update_run(logger.run_id, "RUNNING")
    return logger


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Take back that Lightning names this run's place in the environment: later jobs of the process have their own."""
    known = os.environ.get(URI_VARIABLE)
    try:
        yield
    finally:
        os.environ.pop(URI_VARIABLE, None)
        if known is not None:
            os.environ[URI_VARIABLE] = known


def _run_id(client: Any, experiment: str, id: str | None) -> str | None:
    """MLflow's id of a run that was begun under an id of ours; None where none was."""
    if not id:
        return None
    known = client.get_experiment_by_name(experiment)
    runs = [] if known is None else client.search_runs([known.experiment_id], f"tags.`{RUN_TAG}` = '{id}'")
    return str(runs[0].info.run_id) if runs else None
