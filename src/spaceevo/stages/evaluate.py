"""Job evaluate: top-1 of subnets of a supernet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from spaceevo.artifacts import Component, write_csv
from spaceevo.collectives.launcher import is_first
from spaceevo.collectives.processes import process_group
from spaceevo.errors import ConfigError
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.nn.evaluate import calibrate_subnet, count_correct
from spaceevo.nn.folded import FoldedNetwork
from spaceevo.space.cost import subnet_cost
from spaceevo.space.published import published_names
from spaceevo.stages.inputs import images_input
from spaceevo.stages.job import Input, Job, Outcome
from spaceevo.stages.selection import Selection, SupernetSource, read_superspace
from spaceevo.stages.setting_types import Count, Quant, Seed, Texts
from spaceevo.terminal import print_rows

COLUMNS = {"name": "", "top1": "top-1 %", "mmacs": "MMACs", "mparams": "MParams", "subnet": "subnet"}


@dataclass(frozen=True)
class EvaluateRecipe:
    """Says how subnets are evaluated.

    Attributes:
        folded: whether INT8 subnets are evaluated as they would be deployed.
    """

    folded: bool


@dataclass(frozen=True)
class EvaluateSettings:
    """Says which subnets are evaluated, and on what.

    Attributes:
        superspace: description of the superspace.
        space: encoding of the space; None takes the best found.
        subnet: the subnets; None takes the largest and the smallest.
        quant: scheme of the supernet's INT8 weights, or `off`.
        checkpoint: file of its weights; None takes what was trained here.
        weights: `random` takes a network that was never trained.
        model: name of the published supernet whose released file may be taken.
        data: the images.
        seed: seed of random weights.
        recipe: how.
        threads: threads of torch; None leaves them to it.
    """

    superspace: Mapping[str, Any]
    space: str | None
    subnet: Texts
    quant: Quant
    checkpoint: Path | None
    weights: Literal["trained", "random"]
    model: str | None
    data: Component[ImageFolderDataModule]
    seed: Seed
    recipe: EvaluateRecipe
    threads: Count | None


class EvaluateJob(Job[EvaluateSettings]):
    """Evaluates the largest and smallest subnet, or `subnet=…`, batch norm recalibrated.

    Under torchrun the processes share the test images; each recalibrates alike, so the figures are those of one.
    """

    name = "evaluate"
    main_figure = "top1"
    is_parallel = True

    @cached_property
    def source(self) -> SupernetSource:
        """The supernet."""
        settings = self.settings
        superspace = read_superspace(settings.superspace)
        selection = Selection(superspace, self.workspace, settings.space, settings.subnet)
        weights = (settings.checkpoint, settings.weights, settings.model, settings.seed)
        return SupernetSource(selection, settings.quant, *weights)

    @cached_property
    def data(self) -> ImageFolderDataModule:
        """The images."""
        return self.workspace.make(self.settings.data)

    def inputs(self) -> Mapping[str, Input]:
        """Return the weights, the images, and what decides the space where none is asked for."""
        source = self.source
        return {**source.selection.input(), **source.input(source.int8), "images": images_input(self.data)}

    def work(self) -> Outcome:
        """Evaluate each subnet on the test images.

        Raises:
            ConfigError: the images have more classes than the space, or only networks under `deploy` can be folded.
        """
        self._check()
        member = self.source.selection.member
        device = self.workspace.device
        rows, processes = self._evaluate(str(device))
        figures = {
            "top1": rows[0]["top1"],
            "space": str(member),
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
        following = self.workspace.commands("subnet_search", f"space={member}", without=("subnet",))
        return Outcome(figures, {"subnets": table}, following, str(device))

    def _check(self) -> None:
        folded, quant = self.settings.recipe.folded, self.settings.quant
        if folded and quant != "deploy":
            raise ConfigError(f"recipe.evaluate.folded=true with quant={quant}; use quant=deploy")
        member = self.source.selection.member
        classes = member.superspace.num_classes
        if self.data.num_classes > classes:
            raise ConfigError(
                f"data {self.data.root} has {self.data.num_classes} classes, {member} has {classes}; "
                "evaluate images of the classes it was trained on"
            )

    def _evaluate(self, device: str) -> tuple[list[dict[str, Any]], int]:
        """A row of each subnet, and by how many processes."""
        selection = self.source.selection
        member = selection.member
        specs = selection.subnets(member.largest, member.smallest)
        names = {member.largest: "max", member.smallest: "min"} | published_names(member)
        supernet = self.source.supernet(self.source.int8)
        rows: list[dict[str, Any]] = []
        with process_group() as (rank, world_size):
            supernet.to(device)
            for spec in specs:
                calibrate_subnet(supernet, spec, self.data.calibration_images())
                network = FoldedNetwork(supernet.extract(spec)) if self.settings.recipe.folded else supernet
                correct, images = count_correct(network, self.data.test_share(rank, world_size))
                cost = subnet_cost(member, spec)
                row = {"name": names.get(spec, ""), "top1": 100.0 * correct / images, "correct": correct}
                row |= {"images": images, "mmacs": cost.mmacs, "mparams": cost.mparams, "subnet": str(spec)}
                rows.append(row)
        return rows, world_size
