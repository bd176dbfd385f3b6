"""The Hydra callback through which every job that does not train is reached."""

import time
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from spaceevo.collectives.launcher import is_first
from spaceevo.errors import ConfigError, SpaceEvoError, fault_line
from spaceevo.jobs.trust import require_allowed


class JobCallback(Callback):
    """Hands a job over to the runner when Hydra's own task, which is empty for such a job, has ended."""

    def __init__(self) -> None:
        self._sweep_started_s = 0.0

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what may be made, and where files may lie, before Hydra makes the first folder."""
        try:
            require_allowed(config)
            _require_root(config)
        except SpaceEvoError as error:
            raise SystemExit(f"error: {error}") from None

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Run the job; Hydra would turn an exception here into a warning, so its own job is failed by hand."""
        if config.stage.name is None or job_return.status is not JobStatus.COMPLETED:
            return
        from spaceevo.jobs.runner import job_type, run

        try:
            job = job_type(config)
            if not job.trains and (job.is_parallel or is_first()):
                job_return.return_value = run(config).figures.get(job.main_figure)
        except Exception as error:  # every fault, so that the command ends with it
            job_return.status = JobStatus.FAILED
            job_return.return_value = error

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember when the sweep began: jobs of earlier ones lie in the same folder."""
        self.on_run_start(config)
        self._sweep_started_s = time.time()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Join and compare the jobs; Hydra would turn an exception here into a warning."""
        from spaceevo.jobs.runner import job_type
        from spaceevo.jobs.sweep import compare_jobs, job_folders

        try:
            if config.stage.name is None:
                return
            job = job_type(config)
            folder = Path(config.hydra.sweep.dir).absolute()
            job.merge_sweep(folder, job_folders(folder, self._sweep_started_s))
            if job.sweep_figures:
                compare_jobs(config, job.name, self._sweep_started_s, job.sweep_figures)
        except (SpaceEvoError, OSError, MemoryError) as error:
            raise SystemExit(f"error: {fault_line(error)}") from None


def _require_root(config: DictConfig) -> None:
    """Refuse to look for jobs in a folder that is not there, rather than make it."""
    from spaceevo.jobs.runner import job_type

    if config.stage.name is not None and job_type(config).reads_root and not Path(config.paths.root).is_dir():
        told = f"paths.root = {config.paths.root}: no job has left anything there, it is no folder"
        raise ConfigError(f"{told}; give the folder of a run, a sweep or a chain")
