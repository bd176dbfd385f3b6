"""How far a job is, in a file: whoever reads it needs nothing of the process that writes it."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spaceevo.artifacts.files import MACHINE
from spaceevo.artifacts.records import SCHEMA, Record
from spaceevo.artifacts.work import Amount, Spent

PROGRESS_FILE, STEPS_FILE = "progress.json", "steps.json"
NEW = 0.4  # of what an image takes in a pass of training, what one of work takes that has not come yet
SILENT_S = 600.0  # on another machine, a job that has told nothing for so long is taken for dead
State = Literal["running", "done", "failed", "stopped"]


@dataclass(frozen=True)
class StepList(Record):
    """Says which steps a pipeline goes through (`steps.json`)."""

    titles: tuple[str, ...]
    folders: tuple[str, ...]  # of their results, below `paths.root`
    schema: int = SCHEMA  # version of this record


@dataclass(frozen=True)
class Task:
    """Says how far one task of a job is; times are in seconds since 1970."""

    name: str  # shown to the user
    done: float  # steps
    total: float | None  # steps; None where nobody knows
    began: float  # when it was first told of
    began_at: float  # steps that were done then
    told: float  # when it was last told of

    @property
    def is_finished(self) -> bool:
        """Whether all its steps are done."""
        return self.total is not None and self.done >= self.total

    @property
    def ends(self) -> float | None:
        """When it will end, if it goes on as fast as until now; None where that cannot be told."""
        made = self.done - self.began_at
        if self.total is None or made <= 0:
            return None
        return self.told + (self.total - self.done) * (self.told - self.began) / made


@dataclass(frozen=True)
class JobProgress(Record):
    """Says how far a job is (`progress.json`); times are in seconds since 1970."""

    stage: str  # the job, as `+stage=` names it
    command: str  # what starts it, and goes on with it
    began: float
    told: float  # when it last told something
    state: State = "running"
    process: int = field(default_factory=os.getpid)
    host: str = MACHINE
    tasks: tuple[Task, ...] = ()  # in the order in which they began
    amounts: Mapping[str, Amount] = field(default_factory=dict)  # of work in all, by kind
    spent: tuple[Spent, ...] = ()  # on it until now
    troubles: tuple[str, ...] = ()  # what went wrong and was got over, a line each
    error: str = ""  # the line with which it failed
    schema: int = SCHEMA  # version of this record

    @property
    def fate(self) -> str:
        """What became of it: its state, or `killed`, or `silent` for minutes where its process cannot be looked for."""
        if self.state != "running":
            return self.state
        if self.host == MACHINE:
            return "running" if Path(f"/proc/{self.process}").exists() or not Path("/proc").exists() else "killed"
        return "running" if time.time() - self.told < SILENT_S else "silent"

    @property
    def ends(self) -> float | None:
        """When the job will end, by what each kind of its work has taken; None where that cannot be told.

        Of a kind that has not come yet, one image is taken to need two fifths of what a pass of training takes. None
        is guessed at that comes more often than those known, such as the rows of a table before the first, nor images
        by what is of none, such as measured blocks; nor is the end told by what has only warmed up.
        """
        spent, task = {one.kind: one for one in self.spent if one.times}, self.task
        known = {kind: one for kind, one in spent.items() if kind in self.amounts}
        if task is None or not self.amounts:
            return task.ends if task is not None else None
        main = max(known, key=lambda kind: self.amounts[kind].times, default="")
        if not main or known[main].times == known[main].first_times < self.amounts[main].times:
            return None
        of_main, to_come = self.amounts[main], [of for kind, of in self.amounts.items() if kind not in known]
        if any(of.times > of_main.times or (of.size > 1 and of_main.size == 1) for of in to_come):
            return None
        an_image = known[main].each[0] / of_main.size
        earlier = max(0.0, task.began_at - 1) / task.total if task.total else 0.0  # what was done before a kill
        left_s = 0.0
        for kind, amount in self.amounts.items():
            each = known[kind].each[0] if kind in known else NEW * an_image * amount.size
            done = spent[kind].times if kind in spent else 0
            left_s += max(0.0, amount.times * (1 - earlier) - done) * each
        return self.told + left_s

    @property
    def task(self) -> Task | None:
        """The task at hand: the last told of that is not finished, or simply the last."""
        open_tasks = [task for task in self.tasks if not task.is_finished] or list(self.tasks)
        return max(open_tasks, key=lambda task: task.told, default=None)
