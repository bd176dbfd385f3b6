"""Stage pipeline: the whole chain, one stage after the other; what is done is skipped, what was interrupted resumes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from spaceevo.artifacts import RESULT_FILE, StageResult, fingerprint
from spaceevo.errors import ConfigError
from spaceevo.stages.base import Context, Outcome, StageCallback, console, figure_table, package_versions, shown

RunStage = Callable[[list[str]], StageResult]
SUMMARY = (
    "teacher_top1",
    "teacher_int8_top1",
    "space",
    "score",
    "latency_constraint_ms",
    "supernet_max_fp32_top1",
    "supernet_min_fp32_top1",
    "supernet_max_int8_top1",
    "supernet_min_int8_top1",
    "chosen_subnet",
    "chosen_predicted_latency_ms",
    "int8_top1",
    "onnx_int8_top1",
    "onnx_agreement",
    "onnx_float_layers",
    "fp32_latency_ms",
    "int8_latency_ms",
    "onnx_fp32_file_kb",
    "onnx_int8_file_kb",
)


class PipelineStage(StageCallback):
    """Runs the stages of `recipe.pipeline.steps` with the overrides of this command line.

    Args:
        run_stage: runs one stage from Hydra overrides; given by config, since running lies above the stages.
    """

    name = "pipeline"
    main_figure = "onnx_int8_top1"

    def __init__(self, run_stage: RunStage) -> None:
        self.run_stage = run_stage

    def work(self, context: Context) -> Outcome:
        """Not used: a pipeline has no work of its own to skip."""
        raise AssertionError("a pipeline runs its steps in `execute`")

    def execute(self, config: DictConfig) -> StageResult:
        """Run every step; gather their figures.

        Raises:
            ConfigError: several processes were started; steps that do not train run in one.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("stage=pipeline runs in one process; start its stages one by one under torchrun")
        context, started = Context(config, self.name), time.monotonic()
        given = [o for o in config.hydra.overrides.task if not o.lstrip("+").startswith(("stage=", "quant="))]
        figures: dict[str, Any] = {}
        steps = context.recipe["steps"]
        for number, step in enumerate(steps, start=1):
            console.rule(f"{number}/{len(steps)} {step['title']}", align="left")
            overrides = [*given, f"+stage={step['stage']}", f"quant={step['quant']}"]
            result = self.run_stage(overrides)
            figures |= result.figures
            figures[f"{step['stage']}_{step['quant']}_seconds"] = result.seconds
        result = StageResult(
            stage=self.name,
            fingerprint=fingerprint([context.plain]),
            seed=context.seed,
            figures=figures,
            versions=package_versions(),
            seconds=round(time.monotonic() - started, 1),
        )
        result.save(context.output)
        _print_summary(figures, context.output, result.seconds)
        return result


def _print_summary(figures: Mapping[str, Any], output: Path, seconds: float) -> None:
    shown_figures = {name: figures[name] for name in SUMMARY if name in figures}
    console.print(figure_table(f"pipeline · {seconds:.0f} s", shown_figures))
    pareto = Table("top-1 %", "predicted ms", title="Pareto subnets (INT8)", title_justify="left")
    pareto.add_column("subnet", overflow="fold")  # whole, so that it can be copied
    for row in figures.get("pareto_subnets", []):
        pareto.add_row(f"{row['top1']:.2f}", f"{row['latency_ms']:.4f}", row["subnet"])
    console.print(pareto)
    console.print(f"result: {shown(output / RESULT_FILE)}")
