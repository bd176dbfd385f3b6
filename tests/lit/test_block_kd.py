"""Students in company against the same students alone, and how often their teacher runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from spaceevo.lit.block_kd import BlockKdModule, Student
from spaceevo.lit.module import Recipe, Trainer
from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.losses import noise_to_signal
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import resize
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.quantizer import DEPLOY
from spaceevo.space.description import superspace
from spaceevo.teacher import Teacher

DIGITS = superspace("digits")
BLOCKS = ["stage1_2", "stage2_0", "stage3_1"]
TAPS = {"stage1": ("stage0", "stage1"), "stage2": ("stage1", "stage2"), "stage3": ("stage2", "stage3")}
RATES = {"stage1": 0.02, "stage2": 0.01, "stage3": 0.005}


class Counting(Teacher):
    """A teacher that counts the images it is given by their size."""

    def __init__(self, model: nn.Module, taps: dict[str, str]) -> None:
        super().__init__(model, taps)
        self.seen: Counter[int] = Counter()

    def features(self, images: Tensor, *stages: str) -> tuple[Tensor, ...]:
        self.seen[images.shape[-1]] += 1
        return super().features(images, *stages)


def make_teacher() -> Counting:
    torch.manual_seed(3)
    widths = [3, 8, 12, 16, 20]
    layers: list[nn.Module] = []
    for position, (cin, cout) in enumerate(zip(widths, widths[1:], strict=False)):
        layers += [nn.Conv2d(cin, cout, 3, 2, 1), nn.BatchNorm2d(cout), nn.ReLU() if position else nn.Identity()]
    taps = {stage: str(2 + 3 * index) for index, stage in enumerate(("stage0", "stage1", "stage2", "stage3"))}
    return Counting(nn.Sequential(*layers), taps)


def make_module(
    names: list[str], int8: bool, optimizer: type[torch.optim.Optimizer] = torch.optim.Adam
) -> BlockKdModule:
    teacher = make_teacher()
    students: dict[str, Student] = {}
    for name in names:
        stage, index = name.rsplit("_", 1)
        torch.manual_seed(0)
        taps = TAPS[stage]
        channels = teacher.eval().channels(*taps)
        network = BlockStudent(DIGITS.stage_space(stage, int(index)), (channels[0], channels[1]), DEPLOY)
        set_quant(network, int8)
        students[name] = Student(network, taps, RATES[stage])
    teacher.seen.clear()
    recipe = Recipe(2, lambda groups: torch.optim.Adam(groups, lr=0.1))  # the students' own rates replace 0.1
    return BlockKdModule(students, teacher, DIGITS.block_resolutions, recipe, 5, "teacher")


IMAGES = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def fit(module: BlockKdModule, folder: Path) -> BlockKdModule:
    loader = DataLoader(TensorDataset(IMAGES, torch.zeros(12)), batch_size=4)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, loader)
    return module


@pytest.mark.parametrize("int8", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_block_in_company_ends_as_it_does_alone(tmp_path: Path, int8: bool) -> None:
    together = fit(make_module(BLOCKS, int8), tmp_path)
    batches = [(part, torch.zeros(6)) for part in torch.split(IMAGES, 6)]
    alone = {name: fit(make_module([name], int8), tmp_path) for name in BLOCKS}
    for name, module in alone.items():
        for key, value in module.parts[name].state_dict().items():
            torch.testing.assert_close(together.parts[name].state_dict()[key], value, rtol=1e-5, atol=1e-6)
    found = together.evaluate(torch.split(IMAGES, 6), batches)
    for name, module in alone.items():
        assert found[name] == pytest.approx(module.evaluate(torch.split(IMAGES, 6), batches)[name], rel=1e-5)


def test_the_teacher_runs_once_per_resolution(tmp_path: Path) -> None:
    module = fit(make_module(BLOCKS, int8=False), tmp_path)
    teacher = module._teacher[0]
    assert isinstance(teacher, Counting)
    seen = teacher.seen
    assert seen == {24: 6, 32: 6}  # two epochs of three batches, four passes and three students each


def test_every_student_has_its_own_rate(tmp_path: Path) -> None:
    module = make_module(BLOCKS, int8=False)
    assert {group["lr"] for group in module.parameter_groups()} == {0.02, 0.01, 0.005}
    assert sum(len(group["params"]) for group in module.parameter_groups()) == len(list(module.parameters()))


@torch.no_grad()
def test_evaluation_is_recalibration_then_the_mean_loss_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spaceevo.lit.block_kd.EVALUATED", 5)
    module = make_module(["stage2_0"], int8=False)
    found = module.evaluate(torch.split(IMAGES, 4), [(images, torch.zeros(6)) for images in torch.split(IMAGES, 6)])
    student, teacher = module.students["stage2_0"].network, module._teacher[0]
    student.activate(student.space.smallest, min(student.space.cins))
    pairs = [teacher.features(resize(images, 24), "stage1", "stage2") for images in torch.split(IMAGES, 4)]
    recalibrate(student, [source for source, _ in pairs], student)
    total = 0.0
    for images in torch.split(IMAGES, 5):
        source, target = teacher.features(resize(images, 24), "stage1", "stage2")
        total += len(images) * float(noise_to_signal(student(source), target))
    assert found["stage2_0"]["min_nsr"] == pytest.approx(total / len(IMAGES), rel=1e-6)
    assert module.evaluate(torch.split(IMAGES, 4), [(IMAGES, torch.zeros(12))]) == found
