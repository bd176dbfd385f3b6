"""How far the jobs below a folder are, from their files alone: a run, a sweep or a chain."""

import math
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spaceevo.artifacts import RESULT_FILE, StageResult
from spaceevo.artifacts.progress import PROGRESS_FILE, STEPS_FILE, JobProgress, StepList
from spaceevo.artifacts.shell import command_line, quoted
from spaceevo.errors import CheckpointError
from spaceevo.report.chain import OVERVIEWS

SWEEPS = "multirun"
PLACES = ("*", f"{SWEEPS}/*/*", "*/*")  # of jobs' folders below that of a run, a chain or a sweep
ENDED_BADLY = ("failed", "killed", "silent")


@dataclass(frozen=True)
class Watched:
    """Says how far one job is; times are in seconds since 1970."""

    name: str  # its folder below the one looked at
    state: str  # `waiting`, `running`, `done`, `failed`, `stopped`, `killed` or `silent`
    task: str = ""  # what it is at
    done: float | None = None  # share of the task, from 0 to 1
    age_s: float | None = None  # since it last told something
    seconds: float | None = None  # it has taken
    left_s: float | None = None  # until it ends
    troubles: Sequence[str] = ()  # what went wrong, a line each; the last is what it failed by
    command: str = ""  # what goes on with it


def watch(root: Path) -> list[Watched]:
    """Look at all jobs below a folder but those of chains below; those that a pipeline has not begun are at the end.

    A pipeline itself, a plan or a report are among them only where they are all that is at work, or a pipeline where
    it ended badly by itself, before or between its steps.
    """
    others = chains_below(root)
    below = [folder for place in PLACES for folder in sorted(root.glob(place))]
    folders = [folder for folder in dict.fromkeys([root, *below]) if _is_job(folder) and folder.parent not in others]
    found = [one for folder in folders if (one := _look(root, folder)) is not None]
    planned = _planned(root)
    names = {one.name for one in found}
    found += [Watched(name, "waiting") for name in planned if name not in names]
    # a pipeline that begins has no step yet, or is between two; one that ended by a step's fault needs no second line
    if not any(one.state in ("running", "stopped", *ENDED_BADLY) for one in found):
        found += _overviews(root)
    order = {name: number for number, name in enumerate(planned)}
    return sorted(found, key=lambda one: order.get(one.name, len(order)))


def chains_below(root: Path) -> list[Path]:
    """Find the chains right below a folder, by their jobs' folders, which begin with the job's name.

    Parts of one job, such as `space_search/given`, lie in a folder that begins so, and jobs of a sweep are numbered.
    """
    found = dict.fromkeys(
        job.parent
        for job in sorted(root.glob("*/*"))
        if job.parent.name != SWEEPS and _is_job(job) and _begins(job) and not _begins(job, job.parent)
    )
    return [*found]


def _begins(job: Path, folder: Path | None = None) -> bool:
    """Whether the name of a job's folder, or of another, begins with the job's."""
    try:
        file = job / PROGRESS_FILE
        found = JobProgress.read(file) if file.is_file() else StageResult.load(job)
    except (CheckpointError, OSError):
        return False
    return found is not None and (folder or job).name.startswith(found.stage)


def _is_job(folder: Path) -> bool:
    return (folder / PROGRESS_FILE).is_file() or (folder / RESULT_FILE).is_file()


def _planned(root: Path) -> list[str]:
    """The folders of a pipeline's steps; none without one."""
    try:
        return list(StepList.read(root / "pipeline" / STEPS_FILE).folders)
    except (CheckpointError, OSError):
        return []


def _overviews(root: Path) -> list[Watched]:
    """Look at jobs at work that tell of others, but for those that look on as this one does, and at a pipeline."""
    found = []
    for name in (name for name in OVERVIEWS if name != "status"):
        with suppress(CheckpointError, OSError):
            found.append(_told(name, JobProgress.read(root / name / PROGRESS_FILE), None))
    return [one for one in found if one.state == "running" or one.name == "pipeline" and one.state != "done"]


def _look(root: Path, folder: Path) -> Watched | None:
    name = root.name if folder == root else str(folder.relative_to(root))
    try:
        result = StageResult.load(folder)
        file = folder / PROGRESS_FILE
        progress = JobProgress.read(file) if file.is_file() else None
    except (CheckpointError, OSError) as error:
        return Watched(name, "failed", troubles=[f"cannot be read: {error}"])
    stage = progress.stage if progress is not None else result.stage if result is not None else ""
    if stage in OVERVIEWS:
        return None
    if progress is None:
        return Watched(name, "done", seconds=result.seconds if result else None)
    return _told(name, progress, result)


def _told(name: str, progress: JobProgress, result: StageResult | None) -> Watched:
    now, task, state = time.time(), progress.task, progress.fate
    if state == "done":
        seconds = result.seconds if result is not None else progress.seconds
        return Watched(name, state, seconds=seconds, troubles=progress.troubles)
    ends = progress.ends if state == "running" else None
    wrong = {"killed": "its process was killed", "silent": f"nothing was heard of process {progress.process}"}
    error = progress.error or (f"{wrong[state]} on {progress.host}" if state in wrong else "")
    return Watched(
        name,
        state,
        task=task.name if task is not None else "",
        done=task.done / task.total if task is not None and task.total else None,
        age_s=now - progress.told,
        seconds=progress.seconds + (now - progress.told if state == "running" else 0.0),
        left_s=None if ends is None else max(0.0, ends - now),
        troubles=[*progress.troubles, *([error] if error else [])],
        command=progress.command,
    )


def going_on(watched: Sequence[Watched], pipeline: JobProgress | None) -> list[str]:
    """Return the commands that go on with what is not done: the pipeline's where there is one, else each job's."""
    if all(one.state in ("done", "running") for one in watched):
        return []
    if pipeline is not None:
        return [] if pipeline.fate == "running" else [pipeline.command]
    return [one.command for one in watched if one.state in (*ENDED_BADLY, "stopped") and one.command]


def in_folder(command: str, root: Path) -> str:
    """Return a command for the chain where it lies now, which may be a copy, or have been moved, since it was begun."""
    words = shlex.split(command)
    places = [n for n, word in enumerate(words) if word.lstrip("+").startswith("paths.root=")]
    told = words[places[-1]].partition("=")[2].strip("'\"") if places else str(Path("runs", root.name))
    if root.resolve().is_relative_to(Path(told).resolve()):  # a run is looked at in its own folder too
        return command
    moved = f"paths.root={quoted(root.absolute())}"
    return command_line([*(word for n, word in enumerate(words) if n not in places), moved])


def pipeline_of(root: Path) -> JobProgress | None:
    """Return how far the pipeline of a chain is; None where none was started."""
    try:
        return JobProgress.read(root / "pipeline" / PROGRESS_FILE)
    except (CheckpointError, OSError):
        return None


def duration(seconds: float | None) -> str:
    """Write a duration as people say it; nothing of one that is no number."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
