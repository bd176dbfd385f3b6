"""Block-wise knowledge distillation: every candidate block type of every stage learns the teacher's stage."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random

import torch
from torch import Tensor, nn

from spaceevo.artifacts import file_hash
from spaceevo.errors import ConfigError, choices
from spaceevo.lit.base import MultiPassModule, Recipe, TrainingRun
from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.checkpoint import load_state, read_checkpoint
from spaceevo.nn.losses import VarianceOf, noise_to_signal
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import resize
from spaceevo.quant.prepare import float_state, set_quant
from spaceevo.space.operators import sample_substage
from spaceevo.space.spec import BlockChoice
from spaceevo.space.superspace import Superspace
from spaceevo.teacher import Teacher, load_teacher

BlockName = tuple[str, int]


def parse_blocks(superspace: Superspace, block: str | Sequence[str]) -> list[BlockName]:
    """Read `block=stage1_0`, a list of such names, or `all`.

    Raises:
        ConfigError: a name is not a stage and an index of this superspace.
    """
    names = [f"{stage.name}_{index}" for stage in superspace.searched for index in range(len(superspace.candidates))]
    asked = names if block == "all" else [block] if isinstance(block, str) else list(block)
    found = []
    for text in asked:
        match = re.fullmatch(r"(.+)_(\d+)", str(text))
        if match is None or text not in names:
            raise ConfigError(
                f"unknown block '{text}' of superspace {superspace.name}; allowed: all, {choices(names, 50)}"
            )
        found.append((match[1], int(match[2])))
    return found


class BlockKdModule(MultiPassModule):
    """Four passes a step (largest, smallest, two random sub-stages), each against the teacher at its own resolution."""

    def __init__(
        self,
        student: BlockStudent,
        teacher: Teacher,
        taps: tuple[str, str],
        resolutions: Sequence[int],
        recipe: Recipe,
        seed: int,
        variance_of: VarianceOf,
    ) -> None:
        super().__init__(recipe, seed)
        self.student = student
        # In a list, the teacher is no submodule: Lightning neither saves it nor puts it in train mode.
        self._teacher = [teacher.eval().requires_grad_(False)]
        self.taps = taps
        self.resolutions = tuple(resolutions)
        self.variance_of = variance_of

    @property
    def network(self) -> nn.Module:
        """The student."""
        return self.student

    def on_fit_start(self) -> None:
        """Bring the teacher to the student's device."""
        self._teacher[0].to(self.device)

    def loss(self, images: Tensor, resolution: int, blocks: Sequence[BlockChoice], cin: int) -> Tensor:
        """NSR of a sub-stage on `images` `(N, 3, H, W)` resized to `resolution`."""
        features, target = self._teacher[0].features(resize(images, resolution), *self.taps)
        self.student.activate(blocks, cin)
        return noise_to_signal(self.student(features), target, self.variance_of)

    def corner(self, largest: bool) -> tuple[int, tuple[BlockChoice, ...], int]:
        """Resolution, sub-stage and input width at one end of the space."""
        space, pick = self.student.space, max if largest else min
        return pick(self.resolutions), space.largest if largest else space.smallest, pick(space.cins)

    def draw(self, rng: Random) -> tuple[int, tuple[BlockChoice, ...], int]:
        """Resolution, sub-stage and input width at random."""
        space = self.student.space
        return rng.choice(self.resolutions), sample_substage(space, rng), rng.choice(space.cins)

    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        """Largest, smallest, two random."""
        yield "max", self.loss(images, *self.corner(largest=True))
        yield "min", self.loss(images, *self.corner(largest=False))
        for name in ("random1", "random2"):
            yield name, self.loss(images, *self.draw(rng))

    @torch.no_grad()
    def evaluate(self, calibration: Sequence[Tensor], batches: Sequence[Tensor]) -> dict[str, float]:
        """NSR of the largest and smallest sub-stage, batch norm recalibrated first."""
        found = {}
        self._teacher[0].to(self.device)
        for name, largest in (("max_nsr", True), ("min_nsr", False)):
            case = self.corner(largest)
            recalibrate(self.student, calibration, lambda images, case=case: self.loss(images.to(self.device), *case))  # type: ignore[misc]
            losses = [float(self.loss(images.to(self.device), *case)) for images in batches]
            found[name] = sum(losses) / len(losses)
        return found


def teacher_taps(superspace: Superspace, stage: str) -> tuple[str, str]:
    """Stage names of the teacher's features a stage reads and reproduces: the stage before it, and itself."""
    names = [template.name for template in superspace.stages]
    return names[names.index(stage) - 1], stage


def train_blocks(
    run: TrainingRun,
    block: str | Sequence[str],
    recipe: Recipe,
    lr_by_stage: dict[str, float] | None = None,
    variance_of: VarianceOf = "teacher",
) -> None:
    """Distil each of `block`: fp32 students from the fp32 teacher, INT8 ones from those and the INT8 teacher."""
    blocks, int8 = parse_blocks(run.superspace, block), run.quant.int8
    run.data.setup()
    quant_flag = f"quant={run.quant.name}"
    teacher = load_teacher(
        run.teacher,
        run.layout,
        run.data.num_classes,
        int8,
        run.command("teacher", *([quant_flag] if int8 else [])),
    )
    teacher_file = run.layout.teacher(run.teacher.name, int8)
    inputs = {"teacher": file_hash(teacher_file) if teacher_file.exists() else "library"}
    for stage, index in blocks:
        name, taps = f"{stage}_{index}", teacher_taps(run.superspace, stage)
        source = run.layout.block(run.superspace.name, stage, index, int8=False)
        fp32_command = run.command("block_kd", f"block={name}")
        if int8:
            inputs["fp32"] = file_hash(source) if source.exists() else ""
        rate = (lr_by_stage or {}).get(stage)

        def make_module(
            stage: str = stage,
            index: int = index,
            taps: tuple[str, str] = taps,
            source: object = source,
            rate: float | None = rate,
            fp32_command: str = fp32_command,
        ) -> BlockKdModule:
            torch.manual_seed(run.seed)
            channels = teacher.channels(*taps)
            space = run.superspace.stage_space(stage, index)
            student = BlockStudent(space, (channels[0], channels[1]), run.quant.scheme)
            if int8:
                path = run.layout.block(run.superspace.name, stage, index, int8=False)
                state = read_checkpoint(path, f"fp32 block {stage}_{index}", fp32_command).state
                load_state(student, float_state(state), path, strict=False)
                set_quant(student, True)
            chosen = recipe if rate is None else _with_rate(recipe, rate)
            resolutions = run.superspace.block_resolutions
            return BlockKdModule(student, teacher, taps, resolutions, chosen, run.seed, variance_of)

        def figures(module: MultiPassModule) -> dict[str, float]:
            assert isinstance(module, BlockKdModule)
            return module.evaluate(run.data.calibration_images(), [images for images, _ in run.data.held_out()])

        target = run.layout.block(run.superspace.name, stage, index, int8)
        meta = {"superspace": run.superspace.name, "block": name, "quant": run.quant.name}
        found = run.fit(name, target, make_module, figures, inputs, meta)
        run.figures[f"{name}_max_nsr"] = found["max_nsr"]


def _with_rate(recipe: Recipe, rate: float) -> Recipe:
    from dataclasses import replace
    from functools import partial

    return replace(recipe, optimizer=partial(recipe.optimizer, lr=rate))
