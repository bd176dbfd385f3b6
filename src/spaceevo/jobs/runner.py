"""The one way to run a job: resolve, skip or work, save, report, track."""

import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import version
from inspect import isclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast, get_args

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from spaceevo.artifacts import (
    RESULT_FILE,
    Component,
    Layout,
    Plain,
    StageResult,
    checksums,
    sole_worker,
    sweep_job,
)
from spaceevo.collectives.launcher import is_first
from spaceevo.errors import CheckpointError, ConfigError, SpaceEvoError, Stopped
from spaceevo.jobs.experiments import chosen_experiment
from spaceevo.jobs.mistyped import check_added, check_scheme, check_seed
from spaceevo.jobs.recording import Recorder, recorded
from spaceevo.jobs.settings import read_settings
from spaceevo.jobs.tracking import failure_tracked, is_tracked, track
from spaceevo.jobs.trust import require_allowed, require_own
from spaceevo.jobs.words import hydras_words, refuse_budget, retold
from spaceevo.space.description import conf_folder
from spaceevo.stages.job import BUDGET, Commands, Job, Outcome, Workspace, override_key
from spaceevo.terminal import console, figure_table, processor_seconds
from spaceevo.version import VERSION

JobType = type[Job[Any]]
LOOKING = ("plan",)  # Jobs that look at the one that an experiment selects
RECIPE, STEPS = "recipe.", "recipe.pipeline."  # An experiment's settings of its job, and of the pipeline itself
PACKAGES = ("torch", "pytorch-lightning", "onnxruntime", "numpy")  # Besides this one, the packages that decide a result
UNREPEATED = ("stage", "force", "paths.output", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
"""Overrides that say which job runs, or where one run's own files go: no following command repeats them."""


def run(config: DictConfig, foreseen: Mapping[str, float] | None = None) -> StageResult:
    """Run the job that a composed config describes, or skip it where nothing that decides its result changed.

    Of several processes that would work in one folder, the second waits for the first. Whoever watches is told what
    seconds were `foreseen` of one time of each kind of its work.

    Raises:
        SpaceEvoError: a setting, an input or the work itself is at fault; nothing half-made is left as whole.
    """
    try:
        job = make_job(config)
    except SpaceEvoError:
        if hydra_node(config).mode is RunMode.MULTIRUN and is_first():
            with recorded(Path(config.paths.output), config.stage.name, ""):  # for whoever looks at the sweep
                raise
        raise
    with sole_worker(job.workspace.output / ".lock", console.print) if is_first() else nullcontext():
        try:
            with recorded(job.workspace.output, job.name, _command(job)) if is_first() else nullcontext() as recorder:
                result = _run(config, job, recorder, foreseen or {})
                if is_first():  # where it is skipped too: it may have been killed at its very end
                    sweep_job(job.workspace.output, map(Path, result.outputs.values()))
                return result
        except Stopped as stopped:
            stopped.kept.append(f"what {job.name} had finished, in {shown(job.workspace.output)}")
            raise


def _run(config: DictConfig, job: Job[Any], recorder: Recorder | None, foreseen: Mapping[str, float]) -> StageResult:
    output = job.workspace.output
    previous = _previous(job, output)
    states = job.states({} if previous is None else previous.inputs)
    if _is_skipped(job, previous, states):
        return previous or StageResult(job.name, job.fingerprint, None, {})
    if (threads := getattr(job.settings, "threads", None)) is not None:
        import torch  # jobs that build no network start without it

        torch.set_num_threads(threads)
    is_tracked(config, job)  # a missing package is told before the work
    before = (0.0, 0.0) if recorder is None or job.only_looks else recorder.expects(job.amounts(), foreseen)
    started = time.monotonic() - before[0], processor_seconds() - before[1]
    with failure_tracked(config, list(hydra_node(config).overrides.task), job):
        outcome = job.work()
    result = _result(job, outcome, states, time.monotonic() - started[0], processor_seconds() - started[1])
    if is_first():
        keep(config, result, output, job.workspace.run_name, job)
        _say_next(result.next_command)
    return result


def keep(config: DictConfig, result: StageResult, folder: Path, run_name: str, job: Job[Any] | None = None) -> None:
    """Save a result in a folder, print its summary and where its files lie, and track it; the last two as `track`'s."""
    result.save(folder)
    _print_summary(result)
    for name, path in {**result.outputs, "result": str(folder / RESULT_FILE)}.items():
        console.print(f"  {name}: {shown(Path(path))}")
    if is_tracked(config, job):
        track(config, list(hydra_node(config).overrides.task), result, folder, run_name, job)


def _print_summary(result: StageResult) -> None:
    figures = {name: result.figures[name] for name in result.summary if name in result.figures}
    if figures:
        console.print(figure_table(f"{result.stage} · {result.seconds:.0f} s", figures))


def _say_next(command: str) -> None:
    if command:
        console.print(f"Next: {command}")


def _is_skipped(job: Job[Any], previous: StageResult | None, states: Mapping[str, Plain]) -> bool:
    """Whether nothing changed since an earlier result; says so, or what did. Of several processes the first decides."""
    skipped = False
    if previous is not None and not (job.workspace.force or job.always_works):
        changed = job.changes(previous, states)
        skipped = not changed
        if is_first() and skipped:
            _say_skipped(job, previous)
            if previous.folder not in ("", str(job.workspace.output.absolute())):  # moved or copied, its files with it
                previous.save(job.workspace.output)
        elif is_first():
            console.print(f"{job.name}: runs again, since {changed}")
    if not job.is_parallel:
        return skipped
    from spaceevo.collectives.sharing import first_decides  # jobs that build no network start without torch

    return first_decides(skipped)


def make_job(config: DictConfig) -> Job[Any]:
    """Make the job of a composed config, its settings checked."""
    node = hydra_node(config)
    check_added(config, node.overrides.task, node.runtime.choices)
    check_scheme(config)
    cls = job_type(config)
    # a job's class is generic over the dataclass of its settings: `class CostJob(Job[CostSettings])`
    settings_type, *_ = next(get_args(base) for base in getattr(cls, "__orig_bases__", ()))
    following = commands(config)  # an experiment of another job is told of before its settings are
    if following.selected not in ("", config.stage.name):
        config = _without_others(config, settings_type)
    job = cls(read_settings(settings_type, config), _workspace(config, following))
    check_seed(config)
    refuse_budget(job.name, following.given)
    job.check()
    return job


def _without_others(config: DictConfig, settings_type: type) -> DictConfig:
    """Take out the settings of the job that an experiment selects, which stand beside those of the job that looks."""
    names = {field.name for field in fields(settings_type)}
    mine = {name: value for name, value in config.stage.settings._content.items() if name in names}
    found = config.copy()
    OmegaConf.update(found, "stage.settings", mine, merge=False)
    return found


def job_type(config: DictConfig) -> JobType:
    """Return the class of the job that a composed config describes."""
    require_allowed(config)
    try:
        found, fault = resolve_name(str(config.stage.job)), ""
    except (ImportError, AttributeError, ValueError) as error:  # a module that it needs may be what is missing
        found, fault = None, f" ({error})"
    if not (isclass(found) and issubclass(found, Job)):
        raise ConfigError(
            f"stage.job = {config.stage.job}{fault}; allowed: the full name of a class of jobs; take +stage=<job>"
        )
    return found


def hydra_node(config: DictConfig) -> DictConfig:
    """Return Hydra's own part of the config; Hydra takes it out of what it hands to a task."""
    whole = config if "hydra" in config else cast(DictConfig, HydraConfig.instance().cfg)
    node: DictConfig = whole.hydra
    return node


def _workspace(config: DictConfig, following: Commands) -> Workspace:
    def make(component: Component[Any]) -> Any:
        if not config.trust:
            require_own(component.node)
        try:
            return instantiate(dict(component.node))
        except InstantiationException as error:
            if isinstance(error.__cause__, SpaceEvoError):
                raise error.__cause__ from None
            raise

    if not isinstance(config.force, bool):
        raise ConfigError(f"force = {config.force}; allowed: true, false")
    return Workspace(
        layout=Layout(_folder(config, "checkpoints"), str(config.quant.name)),
        output=_folder(config, "output"),
        lut=_folder(config, "lut"),
        exported=_folder(config, "exported"),
        commands=following,
        make=make,
        is_sweep=hydra_node(config).mode is RunMode.MULTIRUN,
        force=config.force,
        accelerator=str(config.trainer.accelerator),
    )


def _folder(config: DictConfig, name: str) -> Path:
    text = OmegaConf.select(config, f"paths.{name}")
    if not (isinstance(text, str) and text) or config.paths.root is None:
        raise ConfigError(f"paths.root = {config.paths.root}, paths.{name} = {text}; allowed: paths of folders")
    return Path(text)


def commands(config: DictConfig) -> Commands:
    """Return what writes following commands: it repeats this command line's options and overrides."""
    node = hydra_node(config)
    sources = [source for source in node.runtime.config_sources if source.provider == "command-line"]
    options = tuple(word for source in sources for word in ("--config-dir", str(source.path)))
    given = {text: override_key(text) for text in node.overrides.task if override_key(text) not in UNREPEATED}
    name = next((text.partition("=")[2] for text, key in given.items() if key == "experiment"), "")
    chosen, beside = chosen_experiment(name, [*(Path(source.path) for source in sources), conf_folder()])
    job = chosen.pop("stage")
    if job and config.stage.name not in (job, *LOOKING):
        told = f"experiment = {name} selects +stage={job}, and not {config.stage.name}"
        raise ConfigError(f"{told}; leave one of them out, and set what the job needs")
    if not job:
        return Commands(options, tuple(given), composing=_steps_words(given))
    kept = tuple(text for text, key in given.items() if key != "experiment")
    words = {key: f"{key}={value}" for key, value in chosen.items() if not key.startswith(STEPS)}
    spelled = tuple(word for key, word in words.items() if not key.startswith(RECIPE))
    composing = (*hydras_words([word for key, word in words.items() if key not in given.values()]), *kept)
    return Commands(options, kept, spelled, beside, job, _steps_words(composing))


def _steps_words(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(text for text in words if override_key(text) != BUDGET)


def _previous(job: Job[Any], output: Path) -> StageResult | None:
    """The result of an earlier run of the job in this folder; one that cannot be read counts as none, and is told."""
    try:
        found = StageResult.load(output)
    except CheckpointError as error:
        console.print(f"{error}; {job.name} runs again")
        return None
    return found if found is not None and found.stage == job.name else None


def _say_skipped(job: Job[Any], previous: StageResult) -> None:
    """Say what stands there: when it was made, its figures, and the next command with what is set otherwise now."""
    made_by = previous.versions.get("spaceevo", "an unknown version")
    by = "" if made_by == VERSION else f" by spaceevo {made_by}, this is {VERSION}; force=true makes it anew"
    where = shown(job.workspace.output / RESULT_FILE)
    console.print(f"{job.name}: unchanged, skipped ({where}, made {previous.made or 'at an unknown time'}{by})")
    _print_summary(previous)
    _say_next(retold(previous.next_command, previous.command, _command(job)))


def _result(
    job: Job[Any], outcome: Outcome, states: Mapping[str, Plain], seconds: float, on_processors: float
) -> StageResult:
    grown = {name: read.state(None) for name, read in job.inputs().items() if read.grows}
    single = tuple(name for name, value in outcome.figures.items() if not isinstance(value, list | dict))
    return StageResult(
        stage=job.name,
        fingerprint=job.fingerprint,
        seed=getattr(job.settings, "seed", None),
        figures=outcome.figures,
        settings=job.identity,
        inputs={**states, **grown},
        outputs={name: str(path) for name, path in outcome.outputs.items()},
        checksums=checksums(path for name, path in outcome.outputs.items() if name not in outcome.growing),
        versions=package_versions(),
        device=outcome.device,
        made=datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        processor_seconds=round(on_processors, 1),
        summary=single if outcome.summary is None else tuple(name for name in outcome.summary if name in single),
        next_command=outcome.next_command,
        command=_command(job),
    )


def _command(job: Job[Any]) -> str:
    """The command that makes a job's result, its scheme of quantisation told where the job has one."""
    quant = getattr(job.settings, "quant", None)
    return job.workspace.commands(job.name, *([f"quant={quant}"] if quant else []))


def package_versions() -> dict[str, str]:
    """Return the versions of what decides a result."""
    return {name: version(name) for name in PACKAGES} | {"spaceevo": VERSION}


def shown(path: Path) -> Path:
    """Return a path as a user would type it here: relative where it lies below the working folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
