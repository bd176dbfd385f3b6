"""Job plan: what a chain, or one job, would do if it were started now, what it will cost, and what could keep it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen

from spaceevo.artifacts.values import Name, Positive
from spaceevo.errors import ConfigError
from spaceevo.jobs.budget import fit, kept, own_s
from spaceevo.jobs.doctor import Check, examine, print_checks
from spaceevo.jobs.expected import find_costs, print_costs, rows
from spaceevo.jobs.steps import Outlook, Step, compose, look_ahead, print_outlooks, refuse_scheme, step_words
from spaceevo.jobs.words import refuse_budget
from spaceevo.stages.job import Job, Outcome
from spaceevo.terminal import console, quietly

PIPELINE = "pipeline"


@dataclass(frozen=True)
class PlanSettings:
    """Says what is planned."""

    of: Name  # the job, as `+stage=` names it; `pipeline` stands for its steps
    steps: Annotated[tuple[Step, ...], MinLen(1)]  # of the pipeline
    root: Path  # folder of the chain
    budget_hours: Positive | None  # hours that a pipeline may take; None scales nothing


class PlanJob(Job[PlanSettings]):
    """Tells of each step whether it would run, be skipped or fail, tries a few pieces of its work; looks around."""

    name = "plan"
    main_figure = "run"
    always_works = True
    only_looks = True

    def check(self) -> None:
        """Tell also where two jobs are asked for."""
        of, selected = self.settings.of, self.workspace.commands.selected
        if selected and of not in (PIPELINE, selected):
            raise ConfigError(f"of = {of}, and the experiment selects {selected}; leave one of them out")
        refuse_budget(self.of, self.workspace.commands.given)

    @property
    def of(self) -> str:
        """The job that is planned: the one that an experiment selects, or the one asked for."""
        return self.workspace.commands.selected or self.settings.of

    def work(self) -> Outcome:
        """Look, and tell."""
        settings = self.settings
        steps, words = self._steps(())
        configs = [compose(each) for each in words]
        outlooks = look_ahead(steps, configs)
        hours = settings.budget_hours if self.of == PIPELINE else None
        fitted = None if hours is None else kept(settings.root / PIPELINE, hours, outlooks)
        if fitted is not None:
            steps, words = self._steps(fitted.words)
            configs = [compose(each) for each in words]
            outlooks = look_ahead(steps, configs)
        print_outlooks(outlooks, f"what {self.of} would do")
        with quietly():
            checks = examine(settings.root.absolute(), {one.title: one.job for one in outlooks})
        print_checks(checks)
        costs = find_costs(outlooks, configs, words, self.workspace.output.absolute() / "trial")
        told = rows(outlooks, costs)
        print_costs(told)
        if hours is not None:
            (fitted or fit(hours, outlooks, configs, costs, own_s())).print()
        failing = [one.title for one in outlooks if one.verdict == "fail"]
        if failing:
            console.print(f"Next: mend why {', '.join(failing)} would fail, told above")
        following = "" if failing else self.workspace.commands(self.of, without=("of",))
        return Outcome(_figures(outlooks, checks) | {"costs": told}, next_command=following)

    def _steps(self, more: Sequence[str]) -> tuple[Sequence[Step], list[list[str]]]:
        """The steps, and the overrides of each, with some `more`."""
        given = [*(text for text in self.workspace.commands.composing if not text.startswith("of=")), *more]
        if self.of != PIPELINE:  # its scheme is that of the command line
            return [Step(self.of, self.of, "off")], [[*given, f"+stage={self.of}"]]
        refuse_scheme(given)
        return self.settings.steps, [step_words(step, given) for step in self.settings.steps]


def _figures(outlooks: list[Outlook], checks: list[Check]) -> dict[str, Any]:
    """What was found: how many steps of each fate, and all of it as tables."""
    verdicts = [one.verdict for one in outlooks]
    counted = {"run": "run", "skipped": "be skipped", "fail": "fail"}
    figures: dict[str, Any] = {name: verdicts.count(verdict) for name, verdict in counted.items()}
    took = [one.took for one in outlooks if one.verdict == "run" and one.took is not None]
    figures |= {"wrong": sum(check.verdict == "wrong" for check in checks), "seconds_last_time": sum(took)}
    figures["steps"] = [
        {"step": one.title, "verdict": one.verdict, "why": one.why, "took": one.took} for one in outlooks
    ]
    figures["checks"] = [{"check": one.name, "verdict": one.verdict, "found": one.told} for one in checks]
    return figures
