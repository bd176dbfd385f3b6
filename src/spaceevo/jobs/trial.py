"""Tries a job ahead: the job itself, a few pieces of its work on a few images, in a process and a folder of its own."""

import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from threading import Thread
from typing import Any

from omegaconf import DictConfig

from spaceevo.artifacts import RESULT_FILE, StageResult, cache_folder
from spaceevo.artifacts.progress import PROGRESS_FILE, JobProgress
from spaceevo.artifacts.shell import quoted
from spaceevo.artifacts.work import Amount, Extent, Spent
from spaceevo.errors import SpaceEvoError, fault_line, shortened
from spaceevo.jobs.runner import run
from spaceevo.jobs.settings import users_name
from spaceevo.jobs.standins import SLOW
from spaceevo.jobs.steps import at_home
from spaceevo.jobs.words import composed
from spaceevo.runtimes.timing import Stillness
from spaceevo.stages.job import Job
from spaceevo.terminal import console

FORKS = get_context("forkserver")  # each trial then begins with the libraries loaded, and with memory of its own
PRELOADED = ("spaceevo.jobs.trial", "spaceevo.lit.training", "spaceevo.stages.block_lut", "spaceevo.stages.front_files")
LINKED = ("checkpoints", "block_lut*", "export*")
"""What earlier jobs left for later ones, below `paths.root`."""
CACHED = ("latency", "native", "images")
"""What jobs look up in the cache."""
DROPPED = ("paths.", "logger", "~logger")
"""Words that a trial does without."""
MOST_BLOCKS = 9  # that are tried
POLL_S = 0.5
UNIT = 1024 if sys.platform != "darwin" else 1  # bytes of `ru_maxrss`


@dataclass(frozen=True)
class Trial:
    """Says what a trial took."""

    amounts: Mapping[str, Amount]  # of work that it had, by kind
    spent: Mapping[str, Spent]  # on that, by kind
    seconds: float  # in all
    processor_seconds: float
    memory_bytes: int  # most that was resident
    disk_bytes: int  # most that its folder grew by


def attempt(
    job: Job[Any], words: Sequence[str], asked: DictConfig, extent: Extent, root: Path, config_dir: str | None
) -> Trial:
    """Run a job to that extent, below the folder `root`; `asked` is what its words amount to, its whole configuration.

    Raises:
        SpaceEvoError: it failed.
    """
    output = root / str(asked.stage.folder)
    FORKS.set_forkserver_preload([*PRELOADED, *sorted(SLOW & sys.modules.keys())])
    ours, theirs = FORKS.Pipe(duplex=False)
    cache, known = str(root / "cache"), _sizes(root)
    process = FORKS.Process(
        target=_try,
        args=([*words, *shortened_words(job, asked, extent)], root, cache, config_dir, theirs, Stillness.least_ns),
    )
    _quiet_tracker()
    process.start()
    theirs.close()
    grown = 0
    try:
        while not ours.poll(POLL_S):
            grown = max(grown, _grown(root, known))
        memory_bytes, error, Stillness.least_ns = ours.recv()
    except EOFError:
        memory_bytes, error = 0, f"its process ended with code {process.exitcode}; memory may not suffice"
    finally:
        _end(process)
    if error:
        raise SpaceEvoError(error)
    result, progress = StageResult.load(output), JobProgress.read(output / PROGRESS_FILE)
    assert result is not None, output / RESULT_FILE
    spent = {one.kind: one for one in progress.spent}
    used = max(grown, _grown(root, known))
    return Trial(progress.amounts, spent, result.seconds, result.processor_seconds, memory_bytes, used)


def _quiet_tracker() -> None:
    """Have Python's tracker of semaphores clear up without a word what a killed trial leaves."""
    sys.warnoptions.append("ignore:resource_tracker")  # it is started with these
    try:
        ensure_running()
    finally:
        sys.warnoptions.pop()


def _end(process: BaseProcess) -> None:
    """Kill a trial, with the processes that it started: those of its loaders would wait for nobody."""
    assert process.pid is not None
    with suppress(ProcessLookupError):  # it has ended, or has not begun to lead a group
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _try(
    words: Sequence[str], root: Path, cache: str, config_dir: str | None, answer: Connection, least_ns: float
) -> None:
    """Run the job in this process; answer with its memory in bytes, and with a line where it failed.

    How fast the core can be goes from trial to trial, as in a chain from job to job: a look at that takes seconds.
    """
    end_with_parent()
    Stillness.least_ns = least_ns
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    console.quiet = True
    os.environ["SPACEEVO_CACHE"] = cache  # what is measured here does not count elsewhere
    error = ""
    try:
        run(at_home(composed([*words, f"paths.root={quoted(root)}"], config_dir)))
    except Exception as fault:  # whatever it is, a trial that fails must not end the plan
        error = fault_line(fault) or shortened(f"{type(fault).__name__}: {fault}")
    answer.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT, error, Stillness.least_ns))


def end_with_parent() -> None:
    """End this process, and those that it starts, as soon as the one that asked for it has ended, be it killed."""
    os.setpgid(0, 0)  # nobody waits for their work

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
        os.killpg(0, signal.SIGKILL)

    Thread(target=wait, daemon=True).start()


def tried_words(given: Sequence[str], blocks: Sequence[str]) -> list[str]:
    """Return the words of a command line that a trial repeats, with the candidate blocks that are tried."""
    kept = [word for word in given if not word.lstrip("+").startswith(DROPPED)]
    return [*kept, *([f"block=[{','.join(blocks)}]"] if blocks else [])]


def tried_blocks(job: Job[Any]) -> tuple[list[str], float]:
    """Choose, of many candidate blocks, a few of all stages and types; return how many times as many the job has.

    None are chosen where the job has none, or not many.
    """
    names = list(dict.fromkeys(job.block_names))
    if len(names) <= MOST_BLOCKS:
        return [], 1.0
    chosen = names[:: -(-len(names) // MOST_BLOCKS)]
    return chosen, len(names) / len(chosen)


def shortened_words(job: Job[Any], asked: DictConfig, extent: Extent) -> Iterator[str]:
    """Settings as words, under which a job does a few pieces of work on few images."""
    yield "force=true"
    for name, value in job.reduced(extent).items():
        yield f"++{users_name(('stage', 'settings', *name.split('.')), asked)}={value}"
    if extent.images is None or "data" not in asked.stage.settings:
        return
    data, most = asked.data, extent.images
    yield f"data.batch_size={min(most, data.batch_size)}"
    yield f"data.test_images={min(most, data.test_images or most)}"
    yield f"data.calibration_batch_size={min(most, data.calibration_batches * data.calibration_batch_size)}"
    yield "data.calibration_batches=1"


def lend(root: Path, trials: Path) -> None:
    """Give trials below the folder `trials` what jobs below `root` have left, and a cache of their own.

    Results are linked, and what replaces a link is written elsewhere; files of the cache may be added to.
    """
    for name in CACHED:
        if cache_folder(name).is_dir():
            shutil.copytree(cache_folder(name), trials / "cache" / name)
    for folder in (found for name in LINKED for found in root.glob(name)):
        for file in (path for path in folder.rglob("*") if path.is_file()):
            place = trials / file.relative_to(root)
            if any(part.startswith(".") for part in place.relative_to(trials).parts):
                continue  # of unfinished work, which is added to
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, place)
            except OSError:  # on a disk that knows no links
                shutil.copy2(file, place)


def _sizes(root: Path) -> dict[tuple[str, int], int]:
    """Sizes of all files but those of the cache, by path and number of the file: one that replaces another is new."""
    found: dict[tuple[str, int], int] = {}
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name != "cache"]
        for path in (f"{folder}/{name}" for name in names):
            with suppress(OSError):  # it was removed meanwhile
                status = os.stat(path)  # noqa: PTH116 - it is asked for some hundred files, twice a second
                found[path, status.st_ino] = status.st_size
    return found


def _grown(root: Path, known: Mapping[tuple[str, int], int]) -> int:
    """Bytes that files take beyond those known."""
    return sum(size for file, size in _sizes(root).items() if file not in known)
