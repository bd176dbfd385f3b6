"""Stage cost: multiply-accumulates and parameters of subnets, stage by stage."""

from __future__ import annotations

from typing import Any

from spaceevo.space.cost import stage_costs, subnet_cost
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import subnet_blocks
from spaceevo.space.published import published_names
from spaceevo.space.superspace import SpaceMember
from spaceevo.space.walk import output_hw
from spaceevo.stages.base import Context, Outcome, StageCallback, console, write_csv
from spaceevo.stages.tables import print_rows

COLUMNS = {
    "stage": "stage",
    "type": "block",
    "blocks": "kernel#width#expand",
    "output": "output",
    "mmacs": "MMACs",
    "mparams": "MParams",
}


class CostStage(StageCallback):
    """Counts the largest and the smallest subnet of a space, or `subnet=…`; builds no network."""

    name = "cost"
    main_figure = "mmacs"

    def work(self, context: Context) -> Outcome:
        """Count and print."""
        member = context.member
        names, rows, totals = published_names(member), list[dict[str, Any]](), list[dict[str, Any]]()
        for spec in context.subnets(member.largest, member.smallest):
            cost = subnet_cost(member, spec)
            stages = stage_rows(member, spec)
            total = {"subnet": str(spec), "mmacs": cost.mmacs, "mparams": cost.mparams}
            title = f"{names.get(spec, '')} {spec}".strip()
            whole = {"stage": "all", "type": "", "blocks": "", "output": "", **total}
            print_rows(console, [*stages, whole], COLUMNS, title)
            totals.append({"name": names.get(spec), **total})
            rows += [{"subnet": str(spec), **row} for row in stages]
        write_csv(context.output / "stages.csv", rows)
        figures = {
            "space": str(member),
            "mmacs": totals[0]["mmacs"],
            "mparams": totals[0]["mparams"],
            "subnets": totals,
        }
        return Outcome(figures, {"stages": context.output / "stages.csv"})


def stage_rows(member: SpaceMember, spec: SubnetSpec) -> list[dict[str, Any]]:
    """Each stage's blocks, output shape `C×H×W` and cost."""
    costs, rows = stage_costs(member, spec), []
    blocks_left = iter(subnet_blocks(member, spec))
    for name, blocks in member.block_specs(spec).items():
        hw = output_hw(*[next(blocks_left) for _ in blocks][-1])
        described = " ".join(f"{block.kernel}#{block.cout}#{block.expand}" for block in blocks)
        cost = {"mmacs": costs[name].mmacs, "mparams": costs[name].mparams}
        shape = f"{blocks[-1].cout}×{hw}×{hw}"
        rows.append({"stage": name, "type": blocks[0].type, "blocks": described, "output": shape, **cost})
    return rows
