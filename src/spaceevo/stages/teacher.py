"""Job teacher: finetunes the teacher, fp32 from the library's weights, INT8 from its fp32 checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Lt

from spaceevo.artifacts import Component
from spaceevo.lit.finetune import FinetuneModule
from spaceevo.lit.module import MultiPassModule
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.nn.evaluate import top1
from spaceevo.nn.loading import read_checkpoint
from spaceevo.quant.prepare import prepare, set_quant
from spaceevo.stages.job import Input, Made, Outcome, file_input
from spaceevo.stages.training import TrainingJob, TrainingSettings
from spaceevo.teacher import TeacherConfig, make_teacher


@dataclass(frozen=True, kw_only=True)
class TeacherSettings(TrainingSettings):
    """Says which teacher is trained, and how."""

    teacher: Component[TeacherConfig]  # the teacher
    label_smoothing: Annotated[float, Ge(0), Lt(1)]  # share of the target that all classes have in common


class TeacherJob(TrainingJob[TeacherSettings]):
    """Finetunes the teacher on the data."""

    name = "teacher"
    main_figure = "top1"
    teacher = Made[TeacherConfig]()

    @property
    def _fp32_file(self) -> Path:
        return self.workspace.layout.teacher(self.teacher.name, int8=False)

    def inputs(self) -> Mapping[str, Input]:
        """Return the images and, for INT8, the fp32 weights."""
        return {**super().inputs(), **({"fp32": file_input(self._fp32_file)} if self.int8 else {})}

    def work(self) -> Outcome:
        """Train, then tell the top-1.

        Raises:
            MissingArtifactError: INT8 training lacks the fp32 weights, and the library has none.
        """
        trainee = self.trainee(
            f"teacher_{self.precision}",
            self.workspace.layout.teacher(self.teacher.name, self.int8),
            {"fp32": file_input(self._fp32_file).state(None)} if self.int8 else {},
            CheckpointMeta(
                teacher=self.teacher.name, classes=self.data.classes, quant="published" if self.int8 else "off"
            ),
        )
        found = self.training.fit(
            trainee,
            self._make_module,
            lambda module: {"top1": top1(module.network, self.data.test())},
            anew=self.workspace.force,
        )
        name = "teacher_int8_top1" if self.int8 else "teacher_top1"
        commands = self.workspace.commands
        following = commands("block_kd", without=("quant",)) if self.int8 else commands("teacher", "quant=deploy")
        figures = {"top1": found["top1"], name: found["top1"]}
        return Outcome(figures, self.training.made, following, self.training.device)

    def _make_module(self) -> MultiPassModule:
        source = self._fp32_file
        needs_library = self.teacher.weights == "pretrained" and not (self.int8 and source.exists())
        teacher = make_teacher(self.teacher, self.data.num_classes, pretrained=needs_library)
        if self.int8:
            if not needs_library:
                command = self.workspace.commands("teacher", "quant=off")
                read_checkpoint(source, f"teacher {self.teacher.name}", command).load_into(teacher, int8=False)
            prepare(teacher.model)
            set_quant(teacher, True)
        return FinetuneModule(teacher, self.recipe, self.settings.seed, self.settings.label_smoothing)
