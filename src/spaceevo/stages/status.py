"""Job status: how far a run, a sweep or a chain is, and what went wrong, from its files alone."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from spaceevo.artifacts import Neutral
from spaceevo.artifacts.shell import quoted
from spaceevo.errors import ConfigError, choices
from spaceevo.report.status import ENDED_BADLY, Watched, chains_below, going_on, in_folder, pipeline_of, watch
from spaceevo.report.status_page import COLUMNS, rows, write_status_page
from spaceevo.stages.job import Job, Outcome
from spaceevo.stages.settings import Count
from spaceevo.terminal import console, print_rows


@dataclass(frozen=True)
class StatusSettings:
    """Says where to look, and how often."""

    root: Path  # folder of a run, a sweep or a chain
    # seconds between looks, until nothing runs any more; None looks once
    watch: Annotated[Count | None, Neutral("says how often to look, not at what")]


class StatusJob(Job[StatusSettings]):
    """Reads the records that jobs keep of themselves; needs nothing of the processes, wherever they are."""

    name = "status"
    main_figure = "running"
    always_works = True
    only_looks = True
    reads_root = True

    def work(self) -> Outcome:
        """Look once, or until nothing runs any more.

        Raises:
            ConfigError: no job has left anything in the folder, or only those of chains below have.
        """
        root, every = self.settings.root.absolute(), self.settings.watch
        page = self.workspace.output / "status.html"
        while True:
            watched, pipeline = watch(root), pipeline_of(root)
            others = [f"paths.root={quoted(self.settings.root / each.name)}" for each in chains_below(root)]
            if not watched and pipeline is None:  # the folder itself is there, since this job's log is in it
                if others:
                    told = f"paths.root = {self.settings.root} holds chains; each is looked at alone; give one of them"
                    raise ConfigError(f"{told}: {choices(others)}")
                told = f"paths.root = {self.settings.root}: no job has left anything there"
                raise ConfigError(f"{told}; give the folder of a run, a sweep or a chain")
            is_running = any(one.state == "running" for one in watched)
            commands = [in_folder(command, root) for command in going_on(watched, pipeline)]
            write_status_page(page, root, watched, commands, every if is_running else None)
            if every is None or not is_running:
                break
            time.sleep(every)
        _print(root, watched, commands)
        if others:
            console.print(f"Not looked at, chains of their own: {choices(others)}")
        states = [one.state for one in watched]
        counted = {name: states.count(name) for name in ("done", "running", "waiting", "stopped")}
        return Outcome({**counted, "failed": sum(state in ENDED_BADLY for state in states)}, {"status": page})


def _print(root: Path, watched: Sequence[Watched], commands: Sequence[str]) -> None:
    print_rows(
        [dict(zip(COLUMNS, row, strict=True)) for row in rows(watched)], {name: name for name in COLUMNS}, str(root)
    )
    for one in watched:
        for line in one.troubles:
            console.print(f"{one.name}: {line}")
    for command in commands:
        console.print(f"Goes on with: {command}")
