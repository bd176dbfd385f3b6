"""Stage evaluate: top-1 of subnets of a supernet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spaceevo.collectives.launcher import is_first
from spaceevo.collectives.processes import process_group
from spaceevo.errors import ConfigError
from spaceevo.nn.evaluate import calibrate_subnet, count_correct
from spaceevo.nn.folded import FoldedNetwork
from spaceevo.space.cost import subnet_cost
from spaceevo.space.published import published_names
from spaceevo.stages.base import Context, Outcome, StageCallback, console, write_csv
from spaceevo.stages.tables import print_rows


class EvaluateStage(StageCallback):
    """Top-1 of the largest and smallest subnet, or of `subnet=…`, batch norm recalibrated.

    With `recipe.evaluate.folded` INT8 subnets are evaluated as they would be deployed.

    Under torchrun the processes share the test images; each recalibrates alike, so the figures are those of one.
    """

    name = "evaluate"
    main_figure = "top1"
    is_parallel = True

    def inputs(self, context: Context) -> dict[str, Path]:
        """The supernet."""
        return {"supernet": context.supernet_file(context.int8)}

    def work(self, context: Context) -> Outcome:
        """Evaluate each subnet on the test images.

        Raises:
            ConfigError: the images have more classes than the space, or only networks under `deploy` can be folded.
        """
        member, folded = context.member, bool(context.recipe["folded"])
        if folded and context.config.quant.name != "deploy":
            raise ConfigError(f"recipe.evaluate.folded=true with quant={context.config.quant.name}; use quant=deploy")
        specs = context.subnets(member.largest, member.smallest)
        supernet = context.supernet(context.int8)
        classes = context.superspace.num_classes
        if context.data.num_classes > classes:
            raise ConfigError(
                f"data {context.data.root} has {context.data.num_classes} classes, {member} has {classes}; "
                "evaluate images of the classes it was trained on"
            )
        names = {member.largest: "max", member.smallest: "min"} | published_names(member)
        rows: list[dict[str, Any]] = []
        with process_group() as (rank, world_size):
            supernet.to("cuda" if torch.cuda.is_available() else "cpu")
            for spec in specs:
                calibrate_subnet(supernet, spec, context.data.calibration_images())
                network = FoldedNetwork(supernet.extract(spec)) if folded else supernet
                correct, images = count_correct(network, context.data.test_share(rank, world_size))
                cost = subnet_cost(member, spec)
                row = {"name": names.get(spec, ""), "top1": 100.0 * correct / images, "correct": correct}
                row |= {"images": images, "mmacs": cost.mmacs, "mparams": cost.mparams, "subnet": str(spec)}
                rows.append(row)
        figures = {
            "top1": rows[0]["top1"],
            "space": str(member),
            "quant": context.config.quant.name,
            "folded": folded,
            "images": rows[0]["images"],
            "processes": world_size,
            "subnets": rows,
        }
        if is_first():
            write_csv(context.output / "subnets.csv", rows)
            columns = {"name": "", "top1": "top-1 %", "mmacs": "MMACs", "mparams": "MParams", "subnet": "subnet"}
            print_rows(console, rows, columns)
        outputs = {"subnets": context.output / "subnets.csv"}
        return Outcome(figures, outputs, context.command("subnet_search", f"space={member}"))
