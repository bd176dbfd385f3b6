"""What the steps of a chain will cost: tried now, or as an earlier look has found for the same settings."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from spaceevo.artifacts import cache_folder, fingerprint
from spaceevo.errors import SpaceEvoError
from spaceevo.jobs.costs import Cost, estimate
from spaceevo.jobs.steps import Outlook
from spaceevo.jobs.trial import attempt, lend, tried_blocks, tried_words
from spaceevo.report.status import duration
from spaceevo.runtimes.machine import machine_name
from spaceevo.terminal import console, print_rows, progress, quietly
from spaceevo.version import VERSION

COLUMNS = {"step": "step", "takes": "takes", "processor": "of processors", "memory": "memory", "disk": "disk"}
COLUMNS |= {"tried": "measured on"}
Costs = dict[str, Cost | str]  # By the title of a step that would run; a text says why it is not known


def known_costs(outlooks: Sequence[Outlook]) -> Costs:
    """Return what an earlier look found of the steps that would run, of those it looked at."""
    found: Costs = {}
    for one in _due(outlooks):
        try:
            found[one.title] = Cost.read(_file(one))
        except (OSError, SpaceEvoError):
            continue
    return found


def find_costs(
    outlooks: Sequence[Outlook], configs: Sequence[DictConfig], words: Sequence[Sequence[str]], folder: Path
) -> Costs:
    """Try all steps that would run, in order, below `folder`; nothing is tried where all is known from an earlier look.

    Args:
        outlooks: what would become of the steps.
        configs: their configurations.
        words: the overrides of each.
        folder: is made, and removed again.
    """
    due = _due(outlooks)
    found = known_costs(outlooks)
    if len(found) == len(due):
        return found
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        lend(Path(configs[0].paths.root).absolute(), folder)
        with progress() as bar:
            task = bar.add_task("trials", total=len(due))
            for one, config, given in zip(outlooks, configs, words, strict=True):
                if one in due:
                    bar.update(task, description=f"trying {one.title}")
                    if not console.is_terminal:  # a single trial may take minutes
                        console.print(f"  trying {one.title}, {due.index(one) + 1} of {len(due)}")
                    found[one.title] = _cost(one, config, given, folder)
                    bar.advance(task)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _due(outlooks: Sequence[Outlook]) -> list[Outlook]:
    return [one for one in outlooks if one.verdict == "run" and one.job is not None]


def _cost(one: Outlook, config: DictConfig, given: Sequence[str], folder: Path) -> Cost | str:
    """Try a step, and keep what is found for the next look."""
    job = one.job
    assert job is not None
    try:
        with quietly():
            amounts = job.amounts()
        if not amounts:
            return f"+stage={job.name} is not timed ahead"
        options = job.workspace.commands.options
        blocks, as_many = tried_blocks(job)
        words, config_dir = tried_words(given, blocks), options[1] if options else None
        found = estimate(amounts, lambda extent: attempt(job, words, config, extent, folder, config_dir), as_many)
        _fill_tables(one, Path(config.paths.root), folder)
    except SpaceEvoError as error:
        return f"not known, since a trial on a few images failed: {error}"
    found.write(_file(one))
    return found


def _fill_tables(one: Outlook, root: Path, folder: Path) -> None:
    """Where look-up tables were tried, give them the rows that they lack, for the trials that follow."""
    from spaceevo.stages.block_lut import BlockLutJob  # other looks start without torch
    from spaceevo.stages.made_up_tables import fill

    if isinstance(one.job, BlockLutJob):
        fill(one.job, folder / one.job.workspace.lut.absolute().relative_to(root.absolute()))


def _file(one: Outlook) -> Path:
    """The file of what a step costs under its settings and images, on this machine."""
    job = one.job
    assert job is not None
    with quietly():
        amounts = [[kind, amount.times, amount.size] for kind, amount in job.amounts().items()]
        images = job.data.content_hash if hasattr(job, "data") else ""
    machine = [machine_name(), os.cpu_count(), os.environ.get("OMP_NUM_THREADS"), VERSION]
    return cache_folder("costs") / f"{fingerprint([job.name, job.identity, amounts, images, machine])}.json"


def rows(outlooks: Sequence[Outlook], costs: Mapping[str, Cost | str]) -> list[dict[str, object]]:
    """Return the costs of the steps that would run, and of all of them, as figures."""
    told: list[dict[str, object]] = []
    known = []
    for one in _due(outlooks):
        cost = costs.get(one.title, "not looked at yet")
        if isinstance(cost, str):
            told.append({"step": one.title, "tried": cost})
        else:
            known.append(cost)
            told.append({"step": one.title, **cost.figures()})
    if len(known) > 1:
        told.append({"step": "all of these", **Cost.sum(known).figures()})
    return told


def print_costs(told: Sequence[Mapping[str, object]]) -> None:
    """Print them."""
    shown = []
    for row in told:
        seconds, processors = row.get("seconds"), row.get("processor_seconds")
        assert isinstance(seconds, float | None) and isinstance(processors, float | None)
        texts = {"takes": duration(seconds), "processor": duration(processors)}
        texts |= {name: _size(row.get(f"{name}_mb")) for name in ("memory", "disk")}
        shown.append({"step": row["step"], "tried": row["tried"], **texts})
    print_rows(shown, COLUMNS, "what it will cost, as busy as this machine is now")


def _size(megabytes: object) -> str:
    if not isinstance(megabytes, float):
        return ""
    return f"{megabytes / 1e3:.1f} GB" if megabytes >= 1e3 else f"{megabytes:.0f} MB"
