"""Rows of block look-up tables: what they are, that order does not matter, and how a table resumes."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn

from spaceevo.nn.losses import noise_to_signal
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import resize
from spaceevo.quant.prepare import quantizers, set_quant
from spaceevo.quant.quantizer import DEPLOY
from spaceevo.search.lut import LutRow
from spaceevo.space.description import superspace
from spaceevo.space.operators import sample_substage
from spaceevo.stages.block_lut import UnfinishedTable, draw_rows, first_batches, substage_loss
from spaceevo.stages.features import TeacherFeatures, TensorStore
from spaceevo.teacher import Teacher

SPACE = superspace("digits").stage_space("stage2", 1)
TAPS = {"stage1": ("stage0", "stage1"), "stage2": ("stage1", "stage2")}
IMAGES = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Counting(Teacher):
    """A teacher that counts its passes."""

    passes = 0

    def features(self, images: Tensor, *stages: str) -> tuple[Tensor, ...]:
        self.passes += 1
        return super().features(images, *stages)


@pytest.fixture
def teacher() -> Counting:
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 16, 3, 2, 1)]
    return Counting(nn.Sequential(*layers), {"stage0": "0", "stage1": "1", "stage2": "2"}).eval()


def features_of(teacher: Teacher, folder: Path, limit_mib: float = 100) -> TeacherFeatures:
    store = TensorStore(folder, limit_mib)
    parts = IMAGES.split(4)
    return TeacherFeatures(teacher, TAPS, (24, 32), parts[:2], parts, store, torch.device("cpu"))


def test_the_teacher_runs_once_a_batch_and_resolution(teacher: Counting, tmp_path: Path) -> None:
    found = features_of(teacher, tmp_path)
    for stage in TAPS:
        for resolution in (24, 32):
            found.of(stage, resolution)
    assert teacher.passes == 2 * (2 + 3)


@pytest.mark.parametrize("limit_mib", [100, 0.01, 0])
def test_kept_features_are_the_teachers(teacher: Counting, tmp_path: Path, limit_mib: float) -> None:
    found = features_of(teacher, tmp_path, limit_mib)
    kept = found.of("stage2", 24)
    assert (found._store.files > 0) == (limit_mib < 1)
    assert not list(tmp_path.iterdir())
    assert (len(kept.calibration), len(kept.evaluation)) == (2, 3)
    for images, (source, output, variance) in zip(IMAGES.split(4), kept.evaluation, strict=True):
        expected = teacher.features(resize(images, 24), "stage1", "stage2")
        torch.testing.assert_close((source, output), expected)
        torch.testing.assert_close(variance, output.var((2, 3)))
    torch.testing.assert_close(kept.calibration[1], kept.evaluation[1].source)


def student(int8: bool) -> BlockStudent:
    torch.manual_seed(0)
    made = BlockStudent(SPACE, (12, 16), DEPLOY).eval()
    set_quant(made, int8)
    return made


@pytest.mark.parametrize("int8", [False, True])
def test_rows_do_not_depend_on_their_order(teacher: Counting, tmp_path: Path, int8: bool) -> None:
    features, rng = features_of(teacher, tmp_path).of("stage2", 32), Random(2)
    drawn = [(sample_substage(SPACE, rng), rng.choice(SPACE.cins)) for _ in range(6)]
    one, other = student(int8), student(int8)
    forth = [substage_loss(one, *draw, features, "teacher") for draw in drawn]
    back = [substage_loss(other, *draw, features, "teacher") for draw in reversed(drawn)]
    assert forth == back[::-1]
    assert len(set(forth)) > 3
    assert not any(quantizer.initialized for quantizer in quantizers(one).values() if "offset" in quantizer._parameters)


@torch.no_grad()
def test_the_loss_is_that_of_a_recalibrated_student(teacher: Counting, tmp_path: Path) -> None:
    features = features_of(teacher, tmp_path).of("stage2", 32)
    blocks, cin = SPACE.smallest, min(SPACE.cins)
    found = substage_loss(student(False), blocks, cin, features, "published")
    plain = student(False)
    plain.activate(blocks, cin)
    for child in plain.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.momentum = 1.0  # running statistics are those of the last batch
    plain.train()
    sums: dict[str, Tensor] = {}
    for source in features.calibration:
        plain(source)
        for name, buffer in plain.named_buffers():
            if "running" in name:
                sums[name] = sums.get(name, 0) + buffer.clone() / 2
    plain.load_state_dict(sums, strict=False)
    plain.eval()
    losses = [float(noise_to_signal(plain(x), y, "published")) for x, y, _ in features.evaluation]
    assert found == pytest.approx(sum(losses) / 3, rel=1e-5)


ROWS = [LutRow("3#24#2", 16, 8, 0.1 * n, 1.5, 0.25, 0.0123 * n) for n in range(1, 4)]


def test_an_unfinished_table_goes_on_at_the_next_row(tmp_path: Path) -> None:
    path = tmp_path / "stage2_1_0.csv"
    table = UnfinishedTable(path, "mark")
    for row in ROWS[:2]:
        table.append(row)
    with path.open("a") as file:
        file.write(str(ROWS[2])[:9])  # killed while writing
    again = UnfinishedTable(path, "mark")
    assert [str(row) for row in again.rows] == [str(row) for row in ROWS[:2]]
    again.append(ROWS[2])
    assert [str(row) for row in UnfinishedTable(path, "mark").rows] == [str(LutRow.parse(str(row))) for row in ROWS]


def test_an_unfinished_table_of_other_settings_begins_anew(tmp_path: Path) -> None:
    table = UnfinishedTable(tmp_path / "a.csv", "mark")
    table.append(ROWS[0])
    assert UnfinishedTable(tmp_path / "a.csv", "other").rows == []


def test_draws_depend_on_the_seed_alone() -> None:
    assert draw_rows(SPACE, (24, 32), 5, "0-a") == draw_rows(SPACE, (24, 32), 5, "0-a")
    assert draw_rows(SPACE, (24, 32), 5, "0-a") != draw_rows(SPACE, (24, 32), 5, "0-b")


def test_evaluation_batches_cross_the_loaders_batches() -> None:
    batches = [(part, torch.zeros(len(part))) for part in torch.arange(20.0).split(8)]
    found = first_batches(batches, size=5, count=3)
    assert [part.tolist() for part in found] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    assert [len(part) for part in first_batches(batches, size=9, count=9)] == [9, 9, 2]
