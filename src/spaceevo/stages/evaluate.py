"""Stage evaluate: top-1 of subnets of a trained supernet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spaceevo.errors import ConfigError
from spaceevo.nn.evaluate import calibrate_subnet, top1
from spaceevo.nn.folded import FoldedNetwork
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
        """Evaluate each subnet on the test images, with `recipe.evaluate.folded` as it would be deployed.

        Raises:
            ConfigError: only networks under `deploy` can be folded.
        """
        folded = bool(context.recipe.get("folded"))
        if folded and context.config.quant.name != "deploy":
            raise ConfigError(f"recipe.evaluate.folded=true with quant={context.config.quant.name}; use quant=deploy")
        member, supernet = context.member, context.supernet(context.int8)
        rows = []
        for spec in context.subnets(member.largest, member.smallest):
            calibrate_subnet(supernet, spec, context.data.calibration_images())
            network = FoldedNetwork(supernet.extract(spec), context.superspace.input_channels) if folded else supernet
            accuracy = top1(network, context.data.test())
            cost = subnet_cost(member, spec)
            rows.append({"subnet": str(spec), "top1": accuracy, "mmacs": cost.mmacs, "mparams": cost.mparams})
        figures: dict[str, Any] = {
            "top1": rows[0]["top1"],
            "subnets": rows,
            "quant": context.config.quant.name,
            "folded": folded,
        }
        figures |= {f"top1 {row['subnet']}": row["top1"] for row in rows}
        return Outcome(figures, next_command=context.command("subnet_search", f"space={member}"))
