"""Job evaluate: top-1 of subnets of a supernet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spaceevo.artifacts import write_csv
from spaceevo.artifacts.work import Amount
from spaceevo.collectives.averaging import process_group
from spaceevo.collectives.launcher import is_first
from spaceevo.errors import ConfigError
from spaceevo.nn.deployable import FoldedNetwork
from spaceevo.nn.evaluate import calibrate_subnet, count_correct
from spaceevo.quant.quantizer import is_deployable
from spaceevo.space.cost import subnet_cost
from spaceevo.stages.fitness import SUBNETS
from spaceevo.stages.job import Input, Outcome, images_input
from spaceevo.stages.selection import SupernetBasedJob
from spaceevo.stages.settings import SubnetSettings, SupernetSettings
from spaceevo.terminal import doing, print_rows, progress

COLUMNS = {"name": "", "top1": "top-1 %", "mmacs": "MMACs", "mparams": "MParams", "subnet": "subnet"}


@dataclass(frozen=True)
class EvaluateRecipe:
    """Says how: `folded` evaluates INT8 subnets as they would be deployed."""

    folded: bool


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(SupernetSettings, SubnetSettings):
    """Says which subnets are evaluated, by default the largest and the smallest, and how."""

    recipe: EvaluateRecipe


class EvaluateJob(SupernetBasedJob[EvaluateSettings]):
    """Evaluates the largest and smallest subnet, or `subnet=…`, batch norm recalibrated.

    Under torchrun the processes share the test images; each recalibrates alike, so the figures are those of one.
    """

    name = "evaluate"
    main_figure = "top1"
    is_parallel = True

    def inputs(self) -> Mapping[str, Input]:
        """Return the weights, the images, and what decides the space where none is asked for."""
        return {**super().inputs(), **self.supernet_inputs(self.settings.int8), "images": images_input(self.data)}

    def amounts(self) -> Mapping[str, Amount]:
        """Return the subnets to evaluate."""
        data, subnets = self.data, len(self._asked) or 2
        return {SUBNETS: Amount(subnets, data.calibrated_on + data.tested_on)}

    def work(self) -> Outcome:
        """Evaluate each subnet on the test images.

        Raises:
            ConfigError: the images do not fit the network, or networks of this scheme cannot be folded.
        """
        self._check()
        _ = self.classes  # faults of the images are told first
        rows, processes = self._evaluate()
        figures = {
            "top1": rows[0]["top1"],
            "space": str(self.member),
            "quant": self.settings.quant,
            "folded": self.settings.recipe.folded,
            "images": rows[0]["images"],
            "processes": processes,
            "subnets": rows,
        }
        table = self.workspace.output / "subnets.csv"
        if is_first():
            write_csv(table, rows)
            print_rows(rows, COLUMNS)
        following = self.workspace.commands("subnet_search", f"space={self.member}", without=("subnet",))
        return Outcome(figures, {"subnets": table}, following, str(self.workspace.device))

    def _check(self) -> None:
        folded, quant = self.settings.recipe.folded, self.settings.quant
        if folded and not is_deployable(quant):
            raise ConfigError(f"recipe.evaluate.folded=true with quant={quant}; use quant=deploy or reduced_range")

    def _evaluate(self) -> tuple[list[dict[str, Any]], int]:
        """A row of each subnet, and by how many processes."""
        member, device = self.member, self.workspace.device
        specs = self.subnets(member.largest, member.smallest)
        supernet, channels = self.supernet(self.settings.int8), member.superspace.input_channels
        rows: list[dict[str, Any]] = []
        with process_group(device) as (rank, world_size), progress() as bar:
            supernet.to(device)
            for spec in bar.track(specs, description="evaluating subnets"):
                with doing(SUBNETS):
                    calibrate_subnet(supernet, spec, self.data.calibration_images())
                    is_folded = self.settings.recipe.folded
                    network = FoldedNetwork(supernet.extract(spec), channels) if is_folded else supernet
                    correct, images = count_correct(network, self.data.test_share(rank, world_size))
                cost = subnet_cost(member, spec)
                row = {"name": self.subnet_names.get(spec, ""), "top1": 100.0 * correct / images}
                row |= {"correct": correct, "images": images, "mmacs": cost.mmacs, "mparams": cost.mparams}
                rows.append({**row, "subnet": str(spec)})
        return rows, world_size
