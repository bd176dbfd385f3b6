"""Job block_kd: distils the teacher, stage by stage, into every candidate block type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch

from spaceevo.artifacts import Component, Neutral, Plain
from spaceevo.artifacts.work import Extent
from spaceevo.errors import ConfigError, nearest
from spaceevo.lit.block_kd import BlockKdModule, Student
from spaceevo.lit.matching import tell_transform
from spaceevo.lit.module import MultiPassModule
from spaceevo.lit.training import Figures, Trainee
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.nn.losses import VarianceOf
from spaceevo.nn.student import BlockStudent
from spaceevo.quant.prepare import set_quant
from spaceevo.space.selection import BlockName, parse_blocks
from spaceevo.stages.job import Made, Outcome
from spaceevo.stages.settings import Blocks, Count, Positive
from spaceevo.stages.training import STEADY, TrainingJob, TrainingSettings
from spaceevo.teacher import Teacher, TeacherConfig, load_teacher, tap_channels, teacher_taps


@dataclass(frozen=True, kw_only=True)
class BlockKdSettings(TrainingSettings):
    """Says which students are trained, and how."""

    teacher: Component[TeacherConfig]  # the teacher
    block: Blocks  # names of candidate blocks, of stages for all their candidates, or `all`
    lr_by_stage: Mapping[str, Positive]  # learning rates of stages where they are not the recipe's
    variance_of: VarianceOf  # whose variance the loss divides by
    # most students in one pass over the data; None trains all of them in one
    together: Annotated[Count | None, Neutral("students end as they would alone")]


class BlockKdJob(TrainingJob[BlockKdSettings]):
    """Distils fp32 students from the fp32 teacher, INT8 ones from those and the INT8 teacher."""

    name = "block_kd"
    main_figure = "mean_max_nsr"
    teacher = Made[TeacherConfig]()

    def check(self) -> None:
        """Tell also names of blocks and stages that the superspace does not have."""
        super().check()
        stages = {name for name, _ in self.blocks.values()} | {stage.name for stage in self.superspace.searched}
        for name in self.settings.lr_by_stage.keys() - stages:
            raise ConfigError(
                f"recipe.lr_by_stage: {name} is no stage that is distilled; allowed: {nearest(name, stages)}"
            )

    @cached_property
    def _trained_teacher(self) -> Teacher:
        command, channels = self.workspace.commands("teacher"), self.superspace.input_channels
        layout, classes = self.workspace.layout, self.data.num_classes
        teacher = load_teacher(self.teacher, layout, classes, self.int8, command, channels)
        tell_transform(self.data, teacher.meta, f"teacher {self.teacher.name}")
        return teacher

    @property
    def resolution(self) -> int:
        """The largest resolution of the superspace's blocks in pixels."""
        return max(self.superspace.block_resolutions)

    @cached_property
    def blocks(self) -> dict[str, BlockName]:
        """Stage and index of every candidate block asked for, by name."""
        return {
            f"{stage}_{index}": (stage, index) for stage, index in parse_blocks(self.superspace, self.settings.block)
        }

    @cached_property
    def channels(self) -> dict[str, int]:
        """Channels of the teacher's features, by stage."""
        return tap_channels(self._trained_teacher, self.superspace, {stage for stage, _ in self.blocks.values()})

    def _block_file(self, name: str, *, int8: bool) -> Path:
        return self.workspace.layout.block(self.superspace.name, *self.blocks[name], int8=int8)

    @property
    def _teacher_file(self) -> Path:
        return self.workspace.layout.teacher(self.teacher.name, self.int8)

    def starts(self) -> dict[str, Path]:
        """Return the teacher's weights and, for INT8, those of the fp32 students."""
        fp32 = {f"{name}_fp32": self._block_file(name, int8=False) for name in self.blocks} if self.int8 else {}
        return {"teacher": self._teacher_file, **fp32}

    @property
    def passes(self) -> int:
        """The number of passes of each block: largest, smallest and two random ones."""
        return 4

    @property
    def evaluated_images(self) -> int:
        """The number of images that a look takes: the largest and the smallest sub-stage see those held out."""
        return 2 * (self.data.calibrated_on + len(self.data.splits.held_out))

    @property
    def block_names(self) -> Sequence[str]:
        """The blocks that are distilled."""
        return [*self.blocks]

    @property
    def networks(self) -> int:
        """The number of blocks."""
        return len(self.blocks)

    @property
    def trainings(self) -> int:
        """The number of passes over the data, each of some blocks."""
        return -(-len(self.blocks) // (self.settings.together or len(self.blocks)))

    def reduced(self, extent: Extent) -> Mapping[str, Plain]:
        """Take few steps under a teacher that need not have been trained."""
        rates = {f"lr_by_stage.{stage}": STEADY for stage in self.settings.lr_by_stage}
        return {**super().reduced(extent), **rates, "teacher.weights": "random"}

    def work(self) -> Outcome:
        """Train, then tell the NSR of every student's largest and smallest sub-stage.

        Raises:
            MissingArtifactError: the teacher or an fp32 student has not been trained.
        """
        trainees = [self._trainee(name) for name in self.blocks]
        size = self.settings.together or len(trainees)
        losses: dict[str, float] = {}
        rows: list[dict[str, str | float]] = []
        for start in range(0, len(trainees), size):
            group = trainees[start : start + size]
            label = group[0].name if len(group) == 1 else f"{group[0].name}-{group[-1].name}"
            make, measure = self._make_module, self._measure_students
            found = self.training.fit_together(label, group, make, measure, anew=self.workspace.force)
            losses |= {f"{name}_max_nsr": values["max_nsr"] for name, values in found.items()}
            rows += [{"block": name, **values} for name, values in found.items()]
        commands = self.workspace.commands
        following = commands("block_lut") if self.int8 else commands("block_kd", commands.in_int8)
        return self.outcome({"mean_max_nsr": fmean(losses.values()), **losses, "blocks": rows}, following)

    def _trainee(self, name: str) -> Trainee:
        fp32 = {"fp32": self._block_file(name, int8=False)} if self.int8 else {}
        settings = {"superspace": self.superspace.name, "lr": self.settings.lr_by_stage.get(self.blocks[name][0])}
        meta = CheckpointMeta(block=name, quant=self.settings.quant, settings=settings)
        target, starts = self._block_file(name, int8=self.int8), {"teacher": self._teacher_file, **fp32}
        return self.trainee(name, target, starts, meta, besides=("block", "lr_by_stage"))

    def _make_module(self, names: Sequence[str]) -> MultiPassModule:
        students, settings = {name: self._student(name) for name in names}, self.settings
        resolutions = self.superspace.block_resolutions
        return BlockKdModule(
            students, self._trained_teacher, resolutions, self.recipe, settings.seed, settings.variance_of
        )

    def _student(self, name: str) -> Student:
        torch.manual_seed(self.settings.seed)
        stage, index = self.blocks[name]
        source, target = teacher_taps(self.superspace, stage)
        space = self.superspace.stage_space(stage, index)
        network = BlockStudent(space, (self.channels[source], self.channels[target]), self.scheme)
        if self.int8:
            fp32 = self._block_file(name, int8=False)
            self.load_fp32(network, fp32, f"fp32 block {name}", "quant=off", f"block={name}")
            set_quant(network, True)
        return Student(network, (source, target), self.settings.lr_by_stage.get(stage))

    def _measure_students(self, module: MultiPassModule) -> dict[str, Figures]:
        assert isinstance(module, BlockKdModule)
        return module.evaluate(self.data.calibration_images(), self.data.held_out())
