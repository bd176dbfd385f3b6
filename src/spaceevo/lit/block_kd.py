"""Block-wise knowledge distillation: every candidate block type of every stage learns the teacher's stage."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from spaceevo.collectives.averaging import average_, world
from spaceevo.errors import CheckpointError
from spaceevo.lit.module import MultiPassModule, Recipe, decay_groups
from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.evaluate import Batch, equal_batches
from spaceevo.nn.losses import VarianceOf, channel_variance, noise_to_signal
from spaceevo.nn.memory import channels_last, images_last
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import resize
from spaceevo.space.operators import sample_substage
from spaceevo.space.spec import BlockChoice
from spaceevo.space.superspace import StageSpace
from spaceevo.teacher import Teacher
from spaceevo.terminal import told

EVALUATED = 50  # Images of a batch of evaluation: the loss's floor of flat channels is a batch's


@dataclass(frozen=True)
class Student:
    """Describes a student: what is trained, on which of the teacher's features."""

    network: BlockStudent  # a candidate block between its projections
    taps: tuple[str, str]  # stages whose features of the teacher it reads and reproduces
    rate: float | None = None  # its learning rate; None takes the recipe's


class BlockKdModule(MultiPassModule):
    """Trains any number of students under one teacher, four passes a step: largest, smallest, two random sub-stages.

    The teacher runs once per image and resolution, to the deepest tap that is needed. Nothing else is shared: what is
    sampled of a student depends on its name, its parameters have a group of their own in an optimiser that works
    element by element, and gradients are clipped by value; so it ends as it would alone.

    Args:
        students: by name.
        teacher: whose features they learn.
        resolutions: in pixels; the passes of all students share theirs.
        recipe: how they are trained.
        seed: decides what is sampled.
        variance_of: whose variance the loss divides by.
    """

    def __init__(
        self,
        students: Mapping[str, Student],
        teacher: Teacher,
        resolutions: Sequence[int],
        recipe: Recipe,
        seed: int,
        variance_of: VarianceOf,
    ) -> None:
        super().__init__(recipe, seed)
        self.students = dict(students)
        self.networks = nn.ModuleDict({name: student.network for name, student in students.items()})
        # In a list, the teacher is no submodule: Lightning neither saves it nor puts it in train mode.
        self._teacher = [teacher.eval().requires_grad_(False)]
        self.resolutions = tuple(resolutions)
        self.variance_of = variance_of

    @property
    def network(self) -> nn.Module:
        """All students."""
        return self.networks

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The students by name."""
        return dict(self.networks)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Group the parameters of each student, with its own rate."""
        groups = []
        for student in self.students.values():
            own = {"lr": student.rate, "rate_name": f"{student.taps[1]}_lr"}
            rate = {} if student.rate is None else own
            groups += decay_groups(student.network, self.recipe.decay_all, **rate)
        return groups

    def on_fit_start(self) -> None:
        """Bring the teacher to the students' device."""
        super().on_fit_start()
        channels_last(self._teacher[0]).to(self.device)

    def features(self, images: Tensor, resolution: int) -> dict[str, Tensor]:
        """Compute the teacher's features for all students, by stage, of resized images `(N, 3, H, W)`."""
        stages = sorted({stage for student in self.students.values() for stage in student.taps})
        return dict(zip(stages, self._teacher[0].features(resize(images, resolution), *stages), strict=True))

    def loss(self, name: str, features: Mapping[str, Tensor], variance: Mapping[str, Tensor]) -> Tensor:
        """Compute the NSR of a student's active sub-stage on the teacher's features."""
        student = self.students[name]
        source, target = student.taps
        estimate = student.network(features[source])
        return noise_to_signal(estimate, features[target], self.variance_of, variance.get(target))

    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        """Yield the largest, smallest and two random passes of every student; `rng` samples the shared resolutions."""
        plan = {"max": max(self.resolutions), "min": min(self.resolutions)}
        plan |= {name: rng.choice(self.resolutions) for name in ("random1", "random2")}
        rngs = {name: Random(f"{self.seed}-{self.global_step}-{name}") for name in self.students}
        seen: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
        for kind, resolution in plan.items():
            if resolution not in seen:
                features = self.features(images, resolution)
                seen[resolution] = features, self._variance(features)
            for name, student in self.students.items():
                student.network.activate(*choose(student.network.space, kind, rngs[name]))
                yield f"{name}/{kind}", self.loss(name, *seen[resolution])

    def _variance(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.variance_of == "published":
            return {}
        targets = sorted({student.taps[1] for student in self.students.values()})
        return {stage: channel_variance(features[stage], over_ranks=True) for stage in targets}

    @torch.no_grad()
    def evaluate(self, calibration: Sequence[Tensor], batches: Iterable[Batch]) -> dict[str, dict[str, float]]:
        """Compute the NSR of every student's largest and smallest sub-stage, batch norm recalibrated first.

        Images count alike, however they come in batches. In a distributed run each process takes its share of them.
        An NSR that is nan or infinite is a `CheckpointError`.
        """
        found: dict[str, dict[str, float]] = {name: {} for name in self.students}
        channels_last(self._teacher[0]).to(self.device)
        rank, size = world()
        for kind, resolution in (("max", max(self.resolutions)), ("min", min(self.resolutions))):
            for student in self.students.values():
                student.network.activate(*choose(student.network.space, kind, Random(0)))

            def losses(images: Tensor, resolution: int = resolution) -> Tensor:
                features = self.features(images_last(images, self.device), resolution)
                return torch.stack([self.loss(name, features, {}) for name in self.students])

            recalibrate(self.networks, calibration, losses)
            total = torch.zeros(len(self.students), device=self.device)
            count = 0
            own = islice(equal_batches(batches, EVALUATED), rank, None, size)
            for images, _ in told(own, f"losses of {kind} sub-stages, batches of {EVALUATED} images"):
                total += losses(images) * len(images)
                count += len(images)
            mean = total / max(1, count)
            average_([mean], weight=count)
            for name, value in zip(self.students, mean.tolist(), strict=True):
                if not math.isfinite(value):
                    raise CheckpointError(
                        f"block {name}: the NSR of its {kind} sub-stage is {value:g} on the held-out images; it is not "
                        "saved: train it with a lower recipe.block_kd.<precision>.optimizer.lr or lr_by_stage"
                    )
                found[name][f"{kind}_nsr"] = value
        return found


def choose(space: StageSpace, kind: str, rng: Random) -> tuple[tuple[BlockChoice, ...], int]:
    """Choose sub-stage and input width of a pass: the `max`, the `min`, or at random."""
    if kind == "max":
        return space.largest, max(space.cins)
    if kind == "min":
        return space.smallest, min(space.cins)
    return sample_substage(space, rng), rng.choice(space.cins)
