"""Job supernet: weight-sharing training of a whole space, fp32 from scratch, INT8 from its fp32 checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Lt

from spaceevo.errors import ConfigError
from spaceevo.lit.module import MultiPassModule
from spaceevo.lit.supernet import SupernetModule
from spaceevo.nn.block import zero_last_norms
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.nn.evaluate import subnet_top1
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import set_quant
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.job import Input, Outcome, file_input
from spaceevo.stages.selection import Selection
from spaceevo.stages.training import TrainingJob, TrainingSettings

Share = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class SupernetSettings(TrainingSettings):
    """Says which supernet is trained, and how."""

    space: str | None  # encoding of the space; None takes the best found
    label_smoothing: Share  # share of the target that all classes have in common, for the largest subnet
    dropout: Share  # share of the features that the largest subnet's classifier does without


class SupernetJob(TrainingJob[SupernetSettings]):
    """Trains the supernet of a space with the sandwich rule."""

    name = "supernet"
    main_figure = "top1"

    @cached_property
    def selection(self) -> Selection:
        """The space."""
        return Selection(self.superspace, self.workspace, self.settings.space)

    @property
    def member(self) -> SpaceMember:
        """The space."""
        return self.selection.member

    @property
    def _fp32_file(self) -> Path:
        return self.workspace.layout.supernet(str(self.member), int8=False)

    def inputs(self) -> Mapping[str, Input]:
        """Return the images, what chose the space and, for INT8, the fp32 weights."""
        fp32 = {"fp32": file_input(self._fp32_file)} if self.int8 else {}
        return {**super().inputs(), **self.selection.input(), **fp32}

    def work(self) -> Outcome:
        """Train, then tell the top-1 of the largest and the smallest subnet.

        Raises:
            ConfigError: the images have more classes than the superspace.
            MissingArtifactError: INT8 training lacks the fp32 weights.
        """
        self._check_classes()
        member = self.member
        upstream = {"fp32": file_input(self._fp32_file).state(None)} if self.int8 else {}
        trainee = self.trainee(
            f"supernet_{self.precision}",
            self.workspace.layout.supernet(str(member), self.int8),
            upstream,
            CheckpointMeta(space=str(member), quant=self.settings.quant, classes=self.data.classes),
        )
        found = self.training.fit(trainee, self._make_module, self._measure, anew=self.workspace.force)
        figures = {f"supernet_{name}_{self.precision}_top1": found[f"{name}_top1"] for name in ("max", "min")}
        return Outcome(
            {"space": str(member), "top1": found["max_top1"], **figures},
            self.training.made,
            self._next(),
            self.training.device,
        )

    def _next(self) -> str:
        commands, space = self.workspace.commands, f"space={self.member}"
        return commands("subnet_search", space) if self.int8 else commands("supernet", space, "quant=deploy")

    def _check_classes(self) -> None:
        classes, data = self.superspace.num_classes, self.data
        if data.num_classes > classes:
            raise ConfigError(
                f"data {data.root} has {data.num_classes} classes, superspace {self.superspace.name} has {classes}; "
                f"set superspace.stages.logits.widths=[{data.num_classes}]"
            )

    def _make_module(self) -> MultiPassModule:
        torch.manual_seed(self.settings.seed)
        supernet = Supernet(self.member, self.scheme.name)
        if self.int8:
            command = self.workspace.commands("supernet", f"space={self.member}", "quant=off")
            read_checkpoint(self._fp32_file, f"fp32 supernet {self.member}", command).load_into(supernet, int8=False)
            set_quant(supernet, True)
        else:
            zero_last_norms(supernet)
        settings = self.settings
        return SupernetModule(supernet, self.recipe, settings.seed, settings.label_smoothing, settings.dropout)

    def _measure(self, module: MultiPassModule) -> dict[str, float]:
        supernet = module.network
        assert isinstance(supernet, Supernet)
        images = self.data.calibration_images(), self.data.test()
        corners = {"max": self.member.largest, "min": self.member.smallest}
        return {f"{name}_top1": subnet_top1(supernet, spec, *images) for name, spec in corners.items()}
