"""Block-wise knowledge distillation: every candidate block type of every stage learns the teacher's stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from spaceevo.artifacts import file_hash
from spaceevo.collectives.averaging import average_, world
from spaceevo.lit.base import Job, MultiPassModule, Recipe, TrainingRun
from spaceevo.lit.module import decay_groups
from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.losses import VarianceOf, channel_variance, noise_to_signal
from spaceevo.nn.memory import channels_last, images_last
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import resize
from spaceevo.quant.prepare import set_quant
from spaceevo.space.operators import sample_substage
from spaceevo.space.selection import parse_blocks
from spaceevo.space.spec import BlockChoice
from spaceevo.space.superspace import StageSpace, Superspace
from spaceevo.teacher import Teacher, load_teacher

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Pupil:
    """One candidate block in training.

    Attributes:
        student: the block between its projections.
        taps: stage names of the teacher's features it reads and reproduces.
        rate: its learning rate; None takes the recipe's.
    """

    student: BlockStudent
    taps: tuple[str, str]
    rate: float | None = None


class BlockKdModule(MultiPassModule):
    """Any number of students under one teacher, four passes a step: largest, smallest, two random sub-stages.

    The teacher runs once per image and resolution, to the deepest tap that is needed. Nothing else is shared: a
    student's draws depend on its name, its parameters have a group of their own in an optimiser that works element by
    element, and gradients are clipped by value; so it ends as it would alone.

    Args:
        pupils: the students by name.
        teacher: the teacher.
        resolutions: pixels; the passes of all students share theirs.
        recipe: how they are trained.
        seed: seed of all draws.
        variance_of: whose variance the loss divides by.
    """

    def __init__(
        self,
        pupils: Mapping[str, Pupil],
        teacher: Teacher,
        resolutions: Sequence[int],
        recipe: Recipe,
        seed: int,
        variance_of: VarianceOf,
    ) -> None:
        super().__init__(recipe, seed)
        self.pupils = dict(pupils)
        self.students = nn.ModuleDict({name: pupil.student for name, pupil in pupils.items()})
        # In a list, the teacher is no submodule: Lightning neither saves it nor puts it in train mode.
        self._teacher = [teacher.eval().requires_grad_(False)]
        self.resolutions = tuple(resolutions)
        self.variance_of = variance_of

    @property
    def network(self) -> nn.Module:
        """All students."""
        return self.students

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The students by name."""
        return dict(self.students)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of each student, with its own rate."""
        groups = []
        for pupil in self.pupils.values():
            rate = {} if pupil.rate is None else {"lr": pupil.rate}
            groups += decay_groups(pupil.student, self.recipe.decay_all, **rate)
        return groups

    def on_fit_start(self) -> None:
        """Bring the teacher to the students' device."""
        super().on_fit_start()
        channels_last(self._teacher[0]).to(self.device)

    def features(self, images: Tensor, resolution: int) -> dict[str, Tensor]:
        """The teacher's features for all students, by stage, of `images` `(N, 3, H, W)` resized to `resolution`."""
        stages = sorted({stage for pupil in self.pupils.values() for stage in pupil.taps})
        return dict(zip(stages, self._teacher[0].features(resize(images, resolution), *stages), strict=True))

    def loss(self, name: str, features: Mapping[str, Tensor], variance: Mapping[str, Tensor]) -> Tensor:
        """NSR of a student's active sub-stage on the teacher's features."""
        pupil = self.pupils[name]
        source, target = pupil.taps
        estimate = pupil.student(features[source])
        return noise_to_signal(estimate, features[target], self.variance_of, variance.get(target))

    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        """Largest, smallest, two random, of every student; `rng` draws what students share, the resolutions."""
        plan = {"max": max(self.resolutions), "min": min(self.resolutions)}
        plan |= {name: rng.choice(self.resolutions) for name in ("random1", "random2")}
        draws = {name: Random(f"{self.seed}-{self.global_step}-{name}") for name in self.pupils}
        seen: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
        for kind, resolution in plan.items():
            if resolution not in seen:
                features = self.features(images, resolution)
                seen[resolution] = features, self._variance(features)
            for name, pupil in self.pupils.items():
                pupil.student.activate(*choose(pupil.student.space, kind, draws[name]))
                yield f"{name}/{kind}", self.loss(name, *seen[resolution])

    def _variance(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.variance_of == "published":
            return {}
        targets = sorted({pupil.taps[1] for pupil in self.pupils.values()})
        return {stage: channel_variance(features[stage], over_ranks=True) for stage in targets}

    @torch.no_grad()
    def evaluate(self, calibration: Sequence[Tensor], batches: Iterable[Batch]) -> dict[str, dict[str, float]]:
        """NSR of every student's largest and smallest sub-stage, batch norm recalibrated first.

        In a distributed run each process takes its share of the batches.
        """
        found: dict[str, dict[str, float]] = {name: {} for name in self.pupils}
        channels_last(self._teacher[0]).to(self.device)
        rank, size = world()
        for kind, resolution in (("max", max(self.resolutions)), ("min", min(self.resolutions))):
            for pupil in self.pupils.values():
                pupil.student.activate(*choose(pupil.student.space, kind, Random(0)))

            def losses(images: Tensor, resolution: int = resolution) -> Tensor:
                features = self.features(images_last(images, self.device), resolution)
                return torch.stack([self.loss(name, features, {}) for name in self.pupils])

            recalibrate(self.students, calibration, losses)
            total, count = torch.zeros(len(self.pupils), device=self.device), 0
            for images, _ in islice(batches, rank, None, size):
                total, count = total + losses(images), count + 1
            mean = total / max(1, count)
            average_([mean], weight=count)
            for name, value in zip(self.pupils, mean.tolist(), strict=True):
                found[name][f"{kind}_nsr"] = value
        return found


def choose(space: StageSpace, kind: str, rng: Random) -> tuple[tuple[BlockChoice, ...], int]:
    """Sub-stage and input width of a pass: the `max`, the `min`, or at random."""
    if kind == "max":
        return space.largest, max(space.cins)
    if kind == "min":
        return space.smallest, min(space.cins)
    return sample_substage(space, rng), rng.choice(space.cins)


def teacher_taps(superspace: Superspace, stage: str) -> tuple[str, str]:
    """Stage names of the teacher's features a stage reads and reproduces: the stage before it, and itself."""
    names = [template.name for template in superspace.stages]
    return names[names.index(stage) - 1], stage


def train_blocks(
    run: TrainingRun,
    block: str | Sequence[str],
    recipe: Recipe,
    lr_by_stage: Mapping[str, float] | None = None,
    variance_of: VarianceOf = "teacher",
    together: int | None = None,
) -> None:
    """Distil `block`: fp32 students from the fp32 teacher, INT8 ones from those and the INT8 teacher.

    Args:
        run: what every training stage is given.
        block: names for `parse_blocks`.
        recipe: how each student is trained.
        lr_by_stage: learning rates of stages where they are not the recipe's.
        variance_of: whose variance the loss divides by.
        together: most students in one pass over the data; None trains all of them in one.
    """
    blocks, int8 = parse_blocks(run.superspace, block), run.quant.int8
    run.data.setup()
    quant_flag = [f"quant={run.quant.name}"] if int8 else []
    command, teacher_file = run.command("teacher", *quant_flag), run.layout.teacher(run.teacher.name, int8)
    teacher = load_teacher(run.teacher, run.layout, run.data.num_classes, int8, command)
    upstream = {"teacher": file_hash(teacher_file) if teacher_file.exists() else "library"}
    named = {f"{stage}_{index}": (stage, index) for stage, index in blocks}
    stages = sorted({tap for stage, _ in blocks for tap in teacher_taps(run.superspace, stage)})
    channels = dict(zip(stages, teacher.channels(*stages), strict=True))

    def fp32_file(name: str) -> Path:
        return run.layout.block(run.superspace.name, *named[name], int8=False)

    def make_pupil(name: str) -> Pupil:
        torch.manual_seed(run.seed)
        stage, index = named[name]
        source, target = taps = teacher_taps(run.superspace, stage)
        space = run.superspace.stage_space(stage, index)
        student = BlockStudent(space, (channels[source], channels[target]), run.quant.scheme)
        if int8:
            path = fp32_file(name)
            checkpoint = read_checkpoint(path, f"fp32 block {name}", run.command("block_kd", f"block={name}"))
            checkpoint.load_into(student, int8=False)
            set_quant(student, True)
        return Pupil(student, taps, (lr_by_stage or {}).get(stage))

    def make_module(names: Sequence[str]) -> BlockKdModule:
        pupils = {name: make_pupil(name) for name in names}
        return BlockKdModule(pupils, teacher, run.superspace.block_resolutions, recipe, run.seed, variance_of)

    def figures(module: MultiPassModule) -> dict[str, dict[str, float]]:
        assert isinstance(module, BlockKdModule)
        return module.evaluate(run.data.calibration_images(), run.data.held_out())

    settings = {"superspace": run.superspace.name, "quant": run.quant.name, "variance_of": variance_of}
    jobs = []
    for name, (stage, index) in named.items():
        fp32 = {"fp32": file_hash(fp32_file(name)) if fp32_file(name).exists() else ""} if int8 else {}
        meta = settings | {"block": name, "lr": (lr_by_stage or {}).get(stage)}
        jobs.append(Job(name, run.layout.block(run.superspace.name, stage, index, int8), upstream | fp32, meta))
    size = together or len(jobs)
    for group in (jobs[start : start + size] for start in range(0, len(jobs), size)):
        label = group[0].name if len(group) == 1 else f"{group[0].name}-{group[-1].name}"
        found = run.fit_together(label, group, make_module, figures)
        run.figures |= {f"{name}_max_nsr": values["max_nsr"] for name, values in found.items()}
