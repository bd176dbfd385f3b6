"""Steps of a chain: the jobs that a pipeline runs, and what would become of each if it were started now."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from spaceevo.artifacts import StageResult
from spaceevo.artifacts.values import Name
from spaceevo.errors import CheckpointError, ConfigError, DataError, MissingArtifactError, SpaceEvoError
from spaceevo.jobs.runner import make_job
from spaceevo.stages.job import PIPELINE_SCHEME, Job
from spaceevo.stages.settings import CHAIN_SCHEMES, Quant
from spaceevo.terminal import print_rows, quietly

COLUMNS = {"title": "step", "verdict": "would", "why": "since", "took": "took last time, s"}


@dataclass(frozen=True)
class Step:
    """Names one job of a pipeline."""

    title: str  # shown above what it prints
    stage: Name  # the job, as `+stage=` names it
    quant: Quant  # scheme of quantisation, or `off`
    shows: tuple[str, ...] = ()  # its figures that are shown at the end


@dataclass(frozen=True)
class Outlook:
    """Says what would become of a step."""

    title: str
    verdict: str  # `run`, `be skipped` or `fail`
    why: str = ""  # what changed, or what is lacking
    took: float | None = None  # seconds, the last time it ran here
    job: Job[Any] | None = None  # None where it cannot be made


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose the config of one step; its output folder is the one that the job has by itself."""
    return at_home(hydra.compose("config", overrides=[*overrides], return_hydra_config=True))


def at_home(config: DictConfig) -> DictConfig:
    """Let the job of a composed config work in the folder that it has by itself."""
    OmegaConf.update(config, "paths.output", str(Path(config.paths.root) / config.stage.folder))
    return config


def step_words(step: Step, given: Sequence[str]) -> list[str]:
    """Return the overrides of a step under those of a command line."""
    return [*given, f"+stage={step.stage}", f"quant={step.quant}"]


def look_ahead(steps: Sequence[Step], configs: Sequence[DictConfig]) -> list[Outlook]:
    """Tell of each step, in order, whether it would run, be skipped or fail; nothing is written."""
    found: list[Outlook] = []
    anew: set[Path] = set()
    with quietly():  # each job would say what images it finds
        for step, config in zip(steps, configs, strict=True):
            one = _look(step.title, config, any(one.verdict == "run" for one in found), anew)
            anew |= _made_by(one)
            found.append(one)
    return found


def _made_by(one: Outlook) -> set[Path]:
    """The files that a step which would run has made before."""
    if one.verdict != "run" or one.job is None or one.took is None:
        return set()
    previous = StageResult.load(one.job.workspace.output)
    return set() if previous is None else {Path(path).absolute() for path in previous.outputs.values()}


def _look(title: str, config: DictConfig, follows: bool, anew: Set[Path]) -> Outlook:
    """Look at one step; what an earlier step will make is not lacking where it `follows` one that would run.

    It runs too where it reads a file that such a step makes `anew`.
    """
    try:
        job = make_job(config)
    except SpaceEvoError as error:
        return Outlook(title, "fail", str(error))
    try:
        previous = StageResult.load(job.workspace.output)
        if previous is None or previous.stage != job.name:
            return _look_at_inputs(title, job, follows)
        changed = job.changes(previous, job.states(previous.inputs))
    except MissingArtifactError as error:
        return _made_before(title, job) if follows else _failing(title, error, job)
    except CheckpointError as error:
        return Outlook(title, "run", str(error), job=job)
    except SpaceEvoError as error:
        return _failing(title, error, job)
    if job.workspace.force:
        changed = changed or "force=true"
    inputs = {} if changed or not anew else job.inputs()
    if read := next((each.path for each in inputs.values() if each.path and each.path.absolute() in anew), None):
        changed = f"an earlier step makes {read} anew"
    if not changed and follows:
        return Outlook(title, "be skipped", "unless an earlier step changes what it reads", previous.seconds, job)
    return Outlook(title, "run" if changed else "be skipped", changed or "nothing changed", previous.seconds, job)


def _look_at_inputs(title: str, job: Job[Any], follows: bool) -> Outlook:
    """Look at a step that has not ended yet: whether it finds what it reads."""
    try:
        job.inputs()
    except DataError as error:  # no step makes images
        return _failing(title, error, job)
    except SpaceEvoError as error:  # what it reads now may be replaced by an earlier step
        return _made_before(title, job) if follows else _failing(title, error, job)
    return Outlook(title, "run", "it has not ended here yet", job=job)


def _made_before(title: str, job: Job[Any]) -> Outlook:
    return Outlook(title, "run", "earlier steps make what it reads", job=job)


def _failing(title: str, error: SpaceEvoError, job: Job[Any]) -> Outlook:
    return Outlook(title, "fail", str(error), job=job)


def print_outlooks(outlooks: Sequence[Outlook], title: str) -> None:
    """Print what would become of each step."""
    print_rows([{name: getattr(one, name) for name in COLUMNS} for one in outlooks], COLUMNS, title)


def refuse_scheme(given: Sequence[str]) -> None:
    """Refuse `quant=…` of a pipeline, which would be read by no step.

    Raises:
        ConfigError: it is given.
    """
    for text in given:
        if text.startswith("quant="):
            scheme = text.removeprefix("quant=")
            other = f"set {PIPELINE_SCHEME}={scheme} for those in INT8, or " if scheme in CHAIN_SCHEMES else ""
            remedy = f"{other}leave it out"
            raise ConfigError(f"quant = {scheme}; each step of a pipeline has its own; {remedy}")
