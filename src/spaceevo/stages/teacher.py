"""Job teacher: finetunes the teacher, fp32 from the library's weights, INT8 from its fp32 checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spaceevo.artifacts import Component, Plain
from spaceevo.artifacts.work import Extent
from spaceevo.lit.finetune import FinetuneModule
from spaceevo.lit.module import MultiPassModule
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.quant.prepare import prepare, set_quant
from spaceevo.stages.job import Made, Outcome
from spaceevo.stages.training import OneNetworkJob, Share, TrainingSettings
from spaceevo.teacher import TeacherConfig, make_teacher


@dataclass(frozen=True, kw_only=True)
class TeacherSettings(TrainingSettings):
    """Says which teacher is trained, and how."""

    teacher: Component[TeacherConfig]  # the teacher
    label_smoothing: Share  # share of the target that all classes have in common


class TeacherJob(OneNetworkJob[TeacherSettings]):
    """Finetunes the teacher on the data."""

    name = "teacher"
    teacher = Made[TeacherConfig]()

    def checkpoint(self, int8: bool) -> Path:
        """Return the file of the teacher's weights."""
        return self.workspace.layout.teacher(self.teacher.name, int8)

    def reduced(self, extent: Extent) -> Mapping[str, Plain]:
        """Take few steps from weights that need not be fetched; the time is the same."""
        return {**super().reduced(extent), "teacher.weights": "random"}

    def work(self) -> Outcome:
        """Train, then tell the top-1.

        Raises:
            MissingArtifactError: INT8 training lacks the fp32 weights, and the library has none.
        """
        quant = "published" if self.int8 else "off"
        meta = CheckpointMeta(teacher=self.teacher.name, quant=quant)
        found = self.train("teacher", meta, self._make_module)
        commands = self.workspace.commands
        following = commands("block_kd", without=("quant",)) if self.int8 else commands("teacher", "quant=deploy")
        return self.outcome({**found, "teacher_int8_top1" if self.int8 else "teacher_top1": found["top1"]}, following)

    def _make_module(self) -> MultiPassModule:
        source = self.checkpoint(int8=False)
        is_new = self.teacher.weights != "trained" and not (self.int8 and source.exists())
        needs_library = is_new and self.teacher.weights == "pretrained"
        channels = self.superspace.input_channels
        teacher = make_teacher(self.teacher, self.data.num_classes, pretrained=needs_library, channels=channels)
        if self.int8:
            if not is_new:
                self.load_fp32(teacher, source, f"teacher {self.teacher.name}", "quant=off")
            prepare(teacher.model)
            set_quant(teacher, True)
        return FinetuneModule(teacher, self.recipe, self.settings.seed, self.settings.label_smoothing)
