"""How far a job is, in a file: whoever reads it needs nothing of the process that writes it."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spaceevo.artifacts.files import MACHINE
from spaceevo.artifacts.records import SCHEMA, Record
from spaceevo.artifacts.work import REST, Amount, Spent

PROGRESS_FILE, STEPS_FILE = "progress.json", "steps.json"
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
    def earlier(self) -> float:
        """The share of it that was done before a kill; a task that was told of at its end alone says nothing of one."""
        return max(0.0, self.began_at - 1) / self.total if self.total and self.began_at < self.total else 0.0

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
    # seconds that a plan told of one time, by kind, and of `REST`
    foreseen: Mapping[str, float] = field(default_factory=dict)
    spent: tuple[Spent, ...] = ()  # on it until now
    troubles: tuple[str, ...] = ()  # what went wrong and was got over, a line each
    error: str = ""  # the line with which it failed
    processor_seconds: float = 0.0  # of processors, since it began
    earlier_seconds: float = 0.0  # that it took before it was interrupted, by a kill or otherwise, and went on
    earlier_processor_seconds: float = 0.0
    schema: int = SCHEMA  # version of this record

    @property
    def seconds(self) -> float:
        """Seconds that it has taken until it last told something, with those before it was interrupted."""
        return self.earlier_seconds + self.told - self.began

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
        """When the job will end, by what each kind of its work takes; None where that cannot be told."""
        spent, task = {one.kind: one for one in self.spent if one.times}, self.task
        if not self.amounts:
            return task.ends if task is not None else None
        each = self._foreseen_each(spent) if self.foreseen.keys() >= self.amounts.keys() else self._guessed_each(spent)
        if each is None:
            return None
        earlier = 0.0 if task is None else task.earlier
        took = sum(min(one.seconds, one.times * one.each[0]) for kind, one in spent.items() if kind in self.amounts)
        besides = max(0.0, self.told - self.began - took)  # with what the first of a kind took more than others
        left_s = max(0.0, self.foreseen.get(REST, 0.0) - besides)
        for kind, amount in self.amounts.items():
            done = spent[kind].times if kind in spent else 0
            left_s += max(0.0, amount.times * (1 - earlier) - done) * each[kind]
        return self.told + left_s

    def _foreseen_each(self, spent: Mapping[str, Spent]) -> Mapping[str, float]:
        """Seconds of one time of each kind: as it took, or as foreseen, times what others took of what was foreseen."""
        known = {kind: one for kind, one in spent.items() if kind in self.amounts and not self._warms_up(one)}
        took = sum(one.times * one.each[0] for one in known.values())
        foreseen = sum(one.times * self.foreseen[kind] for kind, one in known.items())
        pace = took / foreseen if foreseen else 1.0
        return {kind: known[kind].each[0] if kind in known else pace * self.foreseen[kind] for kind in self.amounts}

    def _guessed_each(self, spent: Mapping[str, Spent]) -> Mapping[str, float] | None:
        """Seconds of one time of each kind: as it took, or by its images, if what comes most often is known.

        None is guessed at that comes more often than those known, such as the rows of a table before the first, nor
        images by what is of none, such as measured blocks; nor is the end told by what has only warmed up.
        """
        known = {kind: one for kind, one in spent.items() if kind in self.amounts}
        main = max(known, key=lambda kind: self.amounts[kind].times, default="")
        if not main or self._warms_up(known[main]):
            return None
        of_main, to_come = self.amounts[main], [of for kind, of in self.amounts.items() if kind not in known]
        if any(of.times > of_main.times or (of.size > 1 and of_main.size == 1) for of in to_come):
            return None
        an_image = known[main].each[0] / of_main.size
        return {
            kind: known[kind].each[0] if kind in known else an_image * amount.size
            for kind, amount in self.amounts.items()
        }

    def _warms_up(self, one: Spent) -> bool:
        """Whether all that was done of a kind came first, and more is to come."""
        return one.times == one.first_times < self.amounts[one.kind].times

    @property
    def task(self) -> Task | None:
        """The task at hand: the last told of that is not finished, or simply the last."""
        open_tasks = [task for task in self.tasks if not task.is_finished] or list(self.tasks)
        return max(open_tasks, key=lambda task: task.told, default=None)
