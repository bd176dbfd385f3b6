"""Fits a pipeline into a number of hours: epochs and samples are scaled down alike until it costs no more."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from pydantic import StringConstraints

from spaceevo.artifacts import fingerprint
from spaceevo.artifacts.records import SCHEMA, Record
from spaceevo.artifacts.work import Scale
from spaceevo.errors import CheckpointError, ConfigError
from spaceevo.jobs.costs import Cost
from spaceevo.jobs.settings import users_name
from spaceevo.jobs.steps import Outlook
from spaceevo.terminal import console, print_rows

HOUR = 3600.0
PARTS = 1000  # Factors that are tried
BUDGET_FILE = "budget.json"
COLUMNS = {"setting": "setting", "asked": "asked", "scaled": "scaled"}


@dataclass(frozen=True)
class Scaled:
    """Says what becomes of a setting."""

    setting: Annotated[str, StringConstraints(pattern=r"^\w[\w.]*$")]  # as users set it
    asked: int | float
    scaled: int | float


@dataclass(frozen=True)
class Fitted(Record):
    """Says how a pipeline was fitted into a budget; a later run takes it up, and so is the same one."""

    budget_hours: float
    origin: str  # hash of the settings that were asked for
    hours: float  # that it is expected to take
    rows: tuple[Scaled, ...]  # those that stay as they are left out
    unknown: tuple[str, ...]  # steps whose costs are not known, and not counted
    schema: int = SCHEMA  # version of this record

    @property
    def words(self) -> list[str]:
        """The overrides that make the pipeline this one."""
        return [f"{row.setting}={row.scaled}" for row in self.rows]

    def print(self) -> None:
        """Print what was asked for and what becomes of it."""
        title = f"recipe.budget_hours = {self.budget_hours:g}, expected: {self.hours:.2g} h"
        if self.rows:
            print_rows([asdict(row) for row in self.rows], COLUMNS, title)
        else:
            console.print(f"{title}; nothing has to be scaled")
        for name in self.unknown:
            console.print(f"{name}: its cost is not known, and not counted")


@dataclass(frozen=True)
class _Setting:
    """Says what scaling one setting saves."""

    scale: Scale
    names: Mapping[str, str]  # as users set it and those along with it, by their names in the job's settings
    seconds: Mapping[str, float]  # that the work takes which grows with it, by kind

    def seconds_at(self, factor: float) -> float:
        """Seconds of that work when it is scaled."""
        return sum(seconds * self.scale.share(kind, factor) for kind, seconds in self.seconds.items())

    def rows(self, factor: float) -> list[Scaled]:
        """What is asked for, and what becomes of it."""
        asked, scaled = self.scale.values(1.0), self.scale.values(factor)
        return [Scaled(self.names[it], asked[it], scaled[it]) for it in asked]


def own_s() -> float:
    """Seconds that a pipeline takes besides its steps, twice what it took until now.

    Once it is fitted, it composes and looks ahead once more, and it ends with a report.
    """
    return 2 * time.process_time()


def fit(
    hours: float,
    outlooks: Sequence[Outlook],
    configs: Sequence[DictConfig],
    costs: Mapping[str, Cost | str],
    besides_s: float,
) -> Fitted:
    """Scale epochs and samples of the steps that would run, all by one factor, until they take at most so long.

    `besides_s` are seconds that the pipeline takes besides its steps.

    Raises:
        ConfigError: the least that may be done of each takes longer.
    """
    known = {title: cost for title, cost in costs.items() if isinstance(cost, Cost)}
    steps = [(one, config) for one, config in zip(outlooks, configs, strict=True) if one.title in known]
    settings = [each for one, config in steps for each in _settings(one, config, known[one.title])]
    rest = besides_s + sum(cost.seconds for cost in known.values()) - sum(each.seconds_at(1.0) for each in settings)
    takes = {part: rest + sum(each.seconds_at(part / PARTS) for each in settings) for part in range(PARTS + 1)}
    best = max((part for part, seconds in takes.items() if seconds <= HOUR * hours), default=None)
    if best is None:
        raise ConfigError(
            f"recipe.budget_hours = {hours:g}; allowed: {takes[0] / HOUR:.2g} or more on this machine, which one epoch "
            "of each and the fewest rows and subnets take; set fewer steps (recipe.pipeline.steps), smaller images or "
            "another space"
        )
    rows = [row for each in settings for row in each.rows(best / PARTS) if row.asked != row.scaled]
    unknown = [title for title in costs if title not in known]
    return Fitted(hours, origin_of(outlooks), takes[best] / HOUR, tuple(rows), tuple(unknown))


def _settings(one: Outlook, config: DictConfig, cost: Cost) -> list[_Setting]:
    """The settings of a step that may be scaled."""
    found = []
    for scale in one.job.scales() if one.job is not None else ():
        names = {it: users_name(("stage", "settings", *it.split(".")), config) for it in scale.values(1.0)}
        seconds = {kind: cost.seconds_by_kind.get(kind, 0.0) for kind in scale.kinds}
        found.append(_Setting(scale, names, seconds))
    return found


def origin_of(outlooks: Sequence[Outlook]) -> str:
    """Hash the settings of all steps."""
    return fingerprint([one.job.fingerprint for one in outlooks if one.job is not None])


def kept(folder: Path, hours: float, outlooks: Sequence[Outlook]) -> Fitted | None:
    """Return how the same pipeline was fitted into the same budget before; None where it was not."""
    file = folder / BUDGET_FILE
    try:
        found = Fitted.read(file) if file.is_file() else None
    except CheckpointError as error:
        console.print(f"{error}; it is fitted anew")
        return None
    is_same = found is not None and (found.budget_hours, found.origin) == (hours, origin_of(outlooks))
    if found is not None and not is_same:
        console.print(f"{file} is of another budget or of other settings; the pipeline is fitted anew")
    return found if is_same else None
