"""Stage evaluate: top-1 of subnets of a trained supernet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spaceevo.nn.evaluate import subnet_top1
from spaceevo.space.cost import subnet_cost
from spaceevo.stages.base import Context, Outcome, StageCallback


class EvaluateStage(StageCallback):
    """Top-1 of the largest and smallest subnet, or of `subnet=…`, batch norm recalibrated."""

    name = "evaluate"
    main_figure = "top1"

    def inputs(self, context: Context) -> dict[str, Path]:
        """The supernet."""
        return {"supernet": context.supernet_file(context.int8)}

    def work(self, context: Context) -> Outcome:
        """Evaluate each subnet on the test images."""
        member, supernet = context.member, context.supernet(context.int8)
        rows = []
        for spec in context.subnets(member.largest, member.smallest):
            accuracy = subnet_top1(supernet, spec, context.data.calibration_images(), context.data.test())
            cost = subnet_cost(member, spec)
            rows.append({"subnet": str(spec), "top1": accuracy, "mmacs": cost.mmacs, "mparams": cost.mparams})
        figures: dict[str, Any] = {"top1": rows[0]["top1"], "subnets": rows, "quant": context.config.quant.name}
        figures |= {f"top1 {row['subnet']}": row["top1"] for row in rows}
        return Outcome(figures, next_command=context.command("subnet_search", f"space={member}"))
