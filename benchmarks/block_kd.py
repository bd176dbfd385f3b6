"""Block-KD steps of a stage's candidates under an EfficientNet-B5: ours, all together; plain, one block at a time.

Plain is contiguous memory, the teacher in every pass of every block, LSQ+ operation by operation.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from random import Random
from unittest.mock import patch

import torch
from plain import clock, machine, mean, peak_mib, plain_forms
from torch import Tensor

from spaceevo.lit.block_kd import BlockKdModule, Student, choose
from spaceevo.lit.module import Recipe
from spaceevo.nn.losses import noise_to_signal
from spaceevo.nn.memory import channels_last, images_last
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import resize
from spaceevo.quant.prepare import prepare, set_quant
from spaceevo.quant.quantizer import DEPLOY
from spaceevo.space.description import superspace
from spaceevo.space.selection import parse_blocks
from spaceevo.teacher import Teacher, teacher_taps

RESOLUTIONS = (224, 160, 192, 224)  # of the four passes: both kinds of form draw alike


class Timed(Teacher):
    """A teacher that adds up its own seconds."""

    seconds = 0.0

    def features(self, images: Tensor, *stages: str) -> tuple[Tensor, ...]:
        """As the teacher."""
        started = clock()
        found = super().features(images, *stages)
        self.seconds += clock() - started
        return found


def make_teacher(int8: bool) -> Timed:
    """EfficientNet-B5 with random weights and the taps of conf/teacher."""
    import timm

    taps = {"first_conv": "bn1", **{f"stage{index}": f"blocks.{index}" for index in range(7)}}
    teacher = Timed(timm.create_model("tf_efficientnet_b5"), taps)
    if int8:
        prepare(teacher.model)
        set_quant(teacher, True)
    return teacher.eval().requires_grad_(False)


def make_students(teacher: Timed, block: str, int8: bool) -> dict[str, Student]:
    """Students of `block` in mobilew."""
    space, students = superspace("mobilew"), {}
    for stage, index in parse_blocks(space, block):
        taps = teacher_taps(space, stage)
        first, last = teacher.channels(*taps)
        network = BlockStudent(space.stage_space(stage, index), (first, last), DEPLOY).train()
        set_quant(network, int8)
        students[f"{stage}_{index}"] = Student(network, taps)
    return students


def plain_step(students: Mapping[str, Student], teacher: Timed, images: Tensor, turn: int) -> None:
    """One optimiser step of every block, one after the other."""
    for name, student in students.items():
        optimizer, rng = torch.optim.Adam(student.network.parameters()), Random(f"0-{turn}-{name}")
        for kind, resolution in zip(("max", "min", "random1", "random2"), RESOLUTIONS, strict=True):
            source, target = teacher.features(resize(images, resolution), *student.taps)
            student.network.activate(*choose(student.network.space, kind, rng))
            noise_to_signal(student.network(source), target).backward()
        optimizer.step()


class FixedResolutions(Random):
    """Draws the resolutions of the random passes as the plain form has them."""

    def choice(self, options: object) -> int:  # type: ignore[override]
        """The next resolution."""
        self.turn = getattr(self, "turn", 1) + 1
        return RESOLUTIONS[self.turn]


def our_step(module: BlockKdModule, images: Tensor) -> None:
    """One optimiser step of all blocks."""
    optimizer = torch.optim.Adam(module.networks.parameters())
    for _, loss in module.passes(images_last(images), torch.zeros(len(images)), FixedResolutions()):
        loss.backward()
    optimizer.step()


def measure(stage: str, batch: int, int8: bool, plain_too: bool) -> tuple[float, float, float, float]:
    """Seconds of plain teacher, plain step, our teacher and our step."""
    torch.manual_seed(0)
    images, teacher = torch.randn(batch, 3, 224, 224), make_teacher(int8)
    students = make_students(teacher, stage, int8)
    module = BlockKdModule(students, teacher, (160, 192, 224), Recipe(1, torch.optim.Adam), 0, "teacher")
    found = []
    for form in ("plain", "ours"):
        seconds = teacher.seconds
        if form == "plain" and not plain_too:
            found += [0.0, 0.0]
            continue
        if form == "ours":
            channels_last(module.networks)
            channels_last(teacher)
        for turn in range(2 if form == "ours" and plain_too else 1):  # our first warms up
            started, seconds = clock(), teacher.seconds
            if form == "plain":
                with plain_forms():
                    plain_step(students, teacher, images, turn)
            else:
                with patch.object(BlockKdModule, "global_step", turn):
                    our_step(module, images)
        found += [teacher.seconds - seconds, clock() - started]
    return found[0], found[1], found[2], found[3]


def main() -> None:
    """Measure every stage and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", nargs="+", default=[f"stage{index}" for index in range(2, 7)])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--quant", choices=("off", "deploy"), default="off", help="fp32, or INT8 as deployed")
    parser.add_argument("--ours-only", action="store_true")
    asked = parser.parse_args()
    print(f"block-KD step of mobilew's candidates, batch {asked.batch}, quant={asked.quant}; {machine()}")
    teacher_ratios, step_ratios = [], []
    for stage in asked.stages:
        plain_teacher, plain, our_teacher, ours = measure(stage, asked.batch, asked.quant != "off", not asked.ours_only)
        teacher_ratios.append(plain_teacher / our_teacher)
        step_ratios.append(plain / ours)
        print(
            f"{stage}: plain {plain:6.2f} s (teacher {plain_teacher:5.2f})  "
            f"ours {ours:6.2f} s (teacher {our_teacher:5.2f})  "
            f"teacher {teacher_ratios[-1]:4.1f}x  step {step_ratios[-1]:4.2f}x",
            flush=True,
        )
    print(f"mean: teacher {mean(teacher_ratios):.1f}x  step {mean(step_ratios):.2f}x  peak {peak_mib():.0f} MiB")


if __name__ == "__main__":
    main()
