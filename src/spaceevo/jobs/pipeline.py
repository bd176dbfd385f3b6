"""Job pipeline: the whole chain, one job after the other; what is done is skipped, what was interrupted resumes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen
from omegaconf import DictConfig

from spaceevo.artifacts import Neutral
from spaceevo.artifacts.progress import STEPS_FILE, StepList
from spaceevo.artifacts.values import Positive
from spaceevo.errors import ConfigError
from spaceevo.jobs.budget import BUDGET_FILE, fit, kept, own_s
from spaceevo.jobs.costs import Cost
from spaceevo.jobs.expected import Costs, find_costs, known_costs, print_costs, rows
from spaceevo.jobs.runner import run
from spaceevo.jobs.steps import (
    Outlook,
    Step,
    compose,
    look_ahead,
    print_outlooks,
    refuse_scheme,
    step_words,
)
from spaceevo.search.front import front
from spaceevo.stages.job import Job, Outcome
from spaceevo.terminal import console, print_rows

FRONT_PICTURE = "front_picture"
"""The benchmark's picture of the front in INT8 and fp32, which is shown at the end."""


@dataclass(frozen=True)
class PipelineSettings:
    """Lists the jobs."""

    steps: Annotated[tuple[Step, ...], MinLen(1)]  # the jobs in order
    budget_hours: Positive | None  # hours that it may take on this machine; None scales nothing
    force: Annotated[bool, Neutral("says whether to run, not what")]  # whether all are made anew


class PipelineJob(Job[PipelineSettings]):
    """Runs the jobs of `recipe.pipeline.steps` with the overrides of this command line."""

    name = "pipeline"
    main_figure = "onnx_int8_top1"
    always_works = True

    def work(self) -> Outcome:
        """Run every step in this process, the only one; gather the figures."""
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise ConfigError("stage=pipeline runs in one process; start its stages one by one under torchrun")
        refuse_scheme(self.workspace.commands.composing)
        given = [*self.workspace.commands.composing, *(["force=true"] if self.settings.force else [])]
        steps = self.settings.steps
        fitted, costs = self._fitted(given)
        given += fitted
        configs = [compose(step_words(step, given)) for step in steps]
        outlooks = self._look(configs)
        folders = tuple(result_folder(*each) for each in zip(configs, outlooks, strict=True))
        StepList(tuple(step.title for step in steps), folders).write(self.workspace.output / STEPS_FILE)
        print_outlooks(outlooks, "what this pipeline would do")
        known = known_costs(outlooks)
        if known and not fitted:  # what was scaled has been told already, and its costs are not measured
            print_costs(rows(outlooks, known))
        elif not costs:
            console.print("What it will cost is not known; the same words with +stage=plan tell it")
        each = {title: cost.each for title, cost in {**costs, **known}.items() if isinstance(cost, Cost)}
        figures: dict[str, Any] = {}
        pictures: dict[str, Path] = {}
        for number, (step, config) in enumerate(zip(steps, configs, strict=True), start=1):
            console.rule(f"{number}/{len(steps)} {step.title}", align="left")
            result = run(config, each.get(step.title, {}))
            figures |= result.figures
            pictures |= {name: Path(path) for name, path in result.outputs.items() if name == FRONT_PICTURE}
            figures[f"{step.stage}_{step.quant}_seconds"] = result.seconds
        found = figures.get("pareto_subnets", [])  # a front of the held-out images; of the test images some are beaten
        axis = figures.get("front_axis", "latency_ms")
        best = front([(row[axis], row["top1"]) for row in found])
        pareto = [{**found[index], "top1": f"{found[index]['top1']:.2f}"} for index in best]
        columns = {"top1": "top-1 %", axis: "predicted ms" if axis == "latency_ms" else axis, "subnet": "subnet"}
        print_rows(pareto, columns, "Pareto subnets (INT8)")
        run(compose([*given, "+stage=report"]))
        words = in_words(figures)
        return Outcome(figures | words, pictures, summary=(*(name for step in steps for name in step.shows), *words))

    def _look(self, configs: Sequence[DictConfig]) -> list[Outlook]:
        """Look ahead; raises where a step could not begin, whatever earlier ones make."""
        outlooks = look_ahead(self.settings.steps, configs)
        for one in outlooks:
            if one.verdict == "fail" and one.job is None:
                raise ConfigError(f"step {one.title}: {one.why}")
        return outlooks

    def _fitted(self, given: Sequence[str]) -> tuple[list[str], Costs]:
        """Overrides that fit the pipeline into the budget, an earlier run's where there was one, and costs without."""
        hours, output = self.settings.budget_hours, self.workspace.output
        if hours is None:
            return [], {}
        words = [step_words(step, given) for step in self.settings.steps]
        configs = [compose(each) for each in words]
        outlooks = self._look(configs)
        fitted, costs = kept(output, hours, outlooks), known_costs(outlooks)
        if fitted is None:
            costs = find_costs(outlooks, configs, words, output.absolute() / "trial")
            print_costs(rows(outlooks, costs))
            fitted = fit(hours, outlooks, configs, costs, own_s())
            fitted.write(output / BUDGET_FILE)
        fitted.print()
        return fitted.words, costs


def in_words(figures: Mapping[str, Any]) -> dict[str, str]:
    """Say in one sentence what was made; nothing where a step that tells of it is left out."""
    try:
        told = (
            f"the INT8 file gets {figures['onnx_int8_top1']:.1f} % of the test images right (its fp32 network: "
            f"{figures['fp32_top1']:.1f} %), {figures['onnx_parity']} with the network that was trained, and takes "
            f"{figures['int8_latency_ms']:.3g} ms on {figures['machine']}: {figures['int8_speedup']:.2f} times as "
            f"fast as in fp32 ({figures['fp32_latency_ms']:.3g} ms), "
            f"in {figures['onnx_int8_file_kb']:.0f} kB instead of {figures['onnx_fp32_file_kb']:.0f}"
        )
    except (KeyError, TypeError):  # a step is left out, or its platform measures nothing
        return {}
    return {"in_words": told}


def result_folder(config: DictConfig, outlook: Outlook) -> str:
    """Tell where a step's result will lie, below the chain's folder."""
    output = config.paths.output if outlook.job is None else outlook.job.workspace.output
    return str(Path(output).relative_to(config.paths.root))
