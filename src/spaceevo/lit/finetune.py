"""Supervised training of one classifier: the teacher, fp32 and INT8."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from torch import Tensor, nn
from torch.nn import functional

from spaceevo.artifacts import file_hash
from spaceevo.lit.base import MultiPassModule, Recipe, TrainingRun
from spaceevo.nn.checkpoint import load_state, read_checkpoint
from spaceevo.nn.evaluate import top1
from spaceevo.quant.prepare import prepare, set_quant
from spaceevo.teacher import Teacher, make_teacher


class FinetuneModule(MultiPassModule):
    """Cross-entropy with label smoothing."""

    def __init__(self, classifier: nn.Module, recipe: Recipe, seed: int, label_smoothing: float) -> None:
        super().__init__(recipe, seed)
        self.classifier = classifier
        self.label_smoothing = label_smoothing

    @property
    def network(self) -> nn.Module:
        """The classifier."""
        return self.classifier

    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        """One pass on the labels."""
        yield "loss", functional.cross_entropy(self.classifier(images), labels, label_smoothing=self.label_smoothing)


def train_teacher(run: TrainingRun, recipe: Recipe, label_smoothing: float = 0.1) -> None:
    """Finetune the teacher: fp32 from the library's weights, INT8 (published scheme) from its fp32 checkpoint."""
    config, int8 = run.teacher, run.quant.int8
    source = run.layout.teacher(config.name, int8=False)
    inputs = {"teacher": file_hash(source)} if int8 and source.exists() else {}

    def make_module() -> FinetuneModule:
        needs_library = config.weights == "pretrained" and not (int8 and source.exists())
        teacher: Teacher = make_teacher(config, run.data.num_classes, pretrained=needs_library)
        if int8:
            if not needs_library:
                state = read_checkpoint(source, f"teacher {config.name}", run.command("teacher")).state
                load_state(teacher, state, source)
            prepare(teacher.model)
            set_quant(teacher, True)
        return FinetuneModule(teacher, recipe, run.seed, label_smoothing)

    name = f"teacher_{'int8' if int8 else 'fp32'}"
    found = run.fit(
        name,
        run.layout.teacher(config.name, int8),
        make_module,
        lambda module: {"top1": top1(module.network, run.data.test())},
        inputs,
        {"teacher": config.name, "num_classes": run.data.num_classes},
    )
    run.figures["teacher_int8_top1" if int8 else "teacher_top1"] = found["top1"]
