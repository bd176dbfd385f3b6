"""Job cost: multiply-accumulates and parameters of subnets, stage by stage."""

from typing import Any

from spaceevo.artifacts import write_csv
from spaceevo.space.cost import stage_costs, subnet_cost
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import subnet_blocks
from spaceevo.space.published import published_names
from spaceevo.space.superspace import SpaceMember
from spaceevo.space.walk import output_hw
from spaceevo.stages.job import Outcome
from spaceevo.stages.selection import SpaceJob
from spaceevo.stages.settings import SubnetSettings
from spaceevo.terminal import print_rows

COLUMNS = {
    "stage": "stage",
    "type": "block",
    "blocks": "kernel#width#expand",
    "output": "output",
    "mmacs": "MMACs",
    "mparams": "MParams",
}
TOTALS = {"name": "", "mmacs": "MMACs", "mparams": "MParams", "subnet": "subnet"}
Row = dict[str, Any]


class CostJob(SpaceJob[SubnetSettings]):
    """Counts the largest and the smallest subnet of a space, or `subnet=…`; builds no network."""

    name = "cost"
    main_figure = "mmacs"

    def work(self) -> Outcome:
        """Count and print."""
        member = self.member
        names = published_names(member)
        rows: list[Row] = []
        totals: list[Row] = []
        for spec in self.subnets(member.largest, member.smallest):
            cost = subnet_cost(member, spec)
            stages = stage_rows(member, spec)
            total = {"subnet": str(spec), "mmacs": cost.mmacs, "mparams": cost.mparams}
            title = f"{names.get(spec, '')} {spec}".strip()
            print_rows([*stages, {"stage": "all", **total}], COLUMNS, title)
            totals.append({"name": names.get(spec), **total})
            rows += [{"subnet": str(spec), **row} for row in stages]
        if len(totals) > 1:
            print_rows(totals, TOTALS, f"subnets of {member}")
        table = self.workspace.output / "stages.csv"
        write_csv(table, rows)
        first = {"mmacs": totals[0]["mmacs"], "mparams": totals[0]["mparams"]}
        return Outcome({"space": str(member), **first, "subnets": totals}, {"stages": table})


def stage_rows(member: SpaceMember, spec: SubnetSpec) -> list[Row]:
    """Return each stage's blocks, output shape `C×H×W` and cost in MMACs and MParams."""
    costs = stage_costs(member, spec)
    blocks_left = iter(subnet_blocks(member, spec))
    rows = []
    for name, blocks in member.block_specs(spec).items():
        hw = output_hw(*[next(blocks_left) for _ in blocks][-1])
        described = " ".join(f"{block.kernel}#{block.cout}#{block.expand}" for block in blocks)
        row = {"stage": name, "type": blocks[0].type, "blocks": described, "output": f"{blocks[-1].cout}×{hw}×{hw}"}
        rows.append({**row, "mmacs": costs[name].mmacs, "mparams": costs[name].mparams})
    return rows
