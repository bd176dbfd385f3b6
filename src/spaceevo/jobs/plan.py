"""Job plan: what a chain, or one job, would do if it were started now, and what could keep it from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen

from spaceevo.artifacts.values import Name
from spaceevo.jobs.doctor import examine, print_checks
from spaceevo.jobs.steps import Step, compose, look_ahead, print_outlooks, refuse_scheme, step_config
from spaceevo.stages.job import Job, Outcome
from spaceevo.terminal import quietly


@dataclass(frozen=True)
class PlanSettings:
    """Says what is planned."""

    of: Name  # the job, as `+stage=` names it; `pipeline` stands for its steps
    steps: Annotated[tuple[Step, ...], MinLen(1)]  # of the pipeline
    root: Path  # folder of the chain


class PlanJob(Job[PlanSettings]):
    """Runs nothing: tells of each step whether it would run, be skipped or fail, and looks at this machine."""

    name = "plan"
    main_figure = "run"
    always_works = True

    def work(self) -> Outcome:
        """Look, and tell."""
        given, settings = self.workspace.commands.given, self.settings
        if settings.of == "pipeline":
            refuse_scheme(given)
            steps, configs = settings.steps, [step_config(step, given) for step in settings.steps]
        else:
            steps = (Step(settings.of, settings.of, "off"),)  # its scheme is that of the command line
            configs = [compose([*given, f"+stage={settings.of}"])]
        outlooks = look_ahead(steps, configs)
        print_outlooks(outlooks, f"what {settings.of} would do")
        with quietly():
            checks = examine(settings.root.absolute(), [one.job for one in outlooks if one.job is not None])
        print_checks(checks)
        verdicts = [one.verdict for one in outlooks]
        counted = {"run": "run", "skipped": "be skipped", "fail": "fail"}
        figures: dict[str, Any] = {name: verdicts.count(verdict) for name, verdict in counted.items()}
        took = [one.took for one in outlooks if one.verdict == "run" and one.took is not None]
        figures |= {"wrong": sum(not check.is_well for check in checks), "seconds_last_time": sum(took)}
        tables = {
            "steps": [
                {"step": one.title, "verdict": one.verdict, "why": one.why, "took": one.took} for one in outlooks
            ],
            "checks": [{"check": one.name, "verdict": one.verdict, "found": one.told} for one in checks],
        }
        return Outcome({**figures, **tables}, next_command=self.workspace.commands(settings.of, without=("of",)))
