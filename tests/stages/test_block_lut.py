"""Rows of block look-up tables: what they are, that order does not matter, and how a table resumes."""

from __future__ import annotations

import shlex
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from spaceevo.errors import MissingArtifactError, TableError
from spaceevo.jobs.runner import make_job
from spaceevo.latency.roofline import Roofline
from spaceevo.latency.table import LatencyTable
from spaceevo.nn.losses import noise_to_signal
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import resize
from spaceevo.quant.prepare import quantizers, set_quant
from spaceevo.quant.quantizer import DEPLOY
from spaceevo.search.lut import LutRow, lut_file_name, lut_keys, lut_record, read_lut_file, write_lut_file
from spaceevo.space.description import superspace
from spaceevo.space.encoding import format_substage
from spaceevo.space.operators import sample_substage
from spaceevo.stages.block_lut import BlockLutJob
from spaceevo.stages.features import TeacherFeatures, TensorStore
from spaceevo.stages.job import value_input
from spaceevo.stages.lut_files import LutFile, first_batches, sample_rows, substage_loss
from spaceevo.stages.made_up_tables import fill
from spaceevo.teacher import Teacher
from tests.stages.conftest import Compose, RunStage, World, nudge, work_of

DIGITS = superspace("digits")
SPACE = DIGITS.stage_space("stage2", 1)
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


def features_of(teacher: Teacher, folder: Path, store: TensorStore | None = None) -> TeacherFeatures:
    store = store or TensorStore(folder, 100)
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
    store = TensorStore(tmp_path, limit_mib)
    kept = features_of(teacher, tmp_path, store).of("stage2", 24)
    assert (store.files > 0) == (limit_mib < 1)
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
            child.momentum = 1.0  # running statistics are those of the images alone
    plain.train()
    plain(torch.cat(list(features.calibration)))  # fewer than two groups of 64
    plain.eval()
    losses = [float(noise_to_signal(plain(x), y, "published")) for x, y, _ in features.evaluation]
    assert found == pytest.approx(sum(losses) / 3, rel=1e-5)


HWS = {24: 6, 32: 8}
SAMPLED = sample_rows(SPACE, HWS, 4, "0-a")
ROWS = [
    LutRow(format_substage(one.blocks), one.cin, one.hw, 0.1 * n, 1.5, 0.25, 0.0123 * n)
    for n, one in enumerate(SAMPLED, start=1)
]


def begun(folder: Path, origin: str = "all", latencies: str = "table", count: int = 2) -> LutFile:
    """A table with so many rows."""
    file = LutFile(folder / "stage2_1_0.csv", origin, value_input(latencies))
    file.begin(SAMPLED)
    for row in ROWS[:count]:
        file.append(row)
    return file


def test_an_unfinished_table_goes_on_at_the_next_row(tmp_path: Path) -> None:
    file = begun(tmp_path)
    with file.unfinished.open("a") as torn:
        torn.write(str(ROWS[2])[:9])  # killed while writing
    again = LutFile(file.path, "all", value_input("table"))
    assert again.begin(SAMPLED) == 2
    assert not again.is_current()
    for row in ROWS[2:]:
        again.append(row)
    again.finish(SAMPLED)
    assert [str(row) for row in read_lut_file(file.path)] == [str(LutRow.parse(str(row))) for row in ROWS]
    assert again.is_current()
    assert not again.unfinished.exists()


@pytest.mark.parametrize(("origin", "latencies"), [("other", "table"), ("all", "other")])
def test_a_table_of_other_settings_or_latencies_begins_anew(tmp_path: Path, origin: str, latencies: str) -> None:
    file = begun(tmp_path, count=4)
    assert LutFile(file.path, origin, value_input(latencies)).begin(SAMPLED) == 0
    file = begun(tmp_path, count=4)
    file.finish(SAMPLED)
    assert not LutFile(file.path, origin, value_input(latencies)).is_current()


@pytest.mark.parametrize("field", ["substage", "cin", "hw"])
def test_rows_that_are_not_of_what_is_sampled_are_not_taken_up(tmp_path: Path, field: str) -> None:
    begun(tmp_path, count=3)
    second = SAMPLED[1]
    others = {
        "substage": second._replace(blocks=second.blocks * 2),
        "cin": second._replace(cin=999),
        "hw": second._replace(hw=7),
    }
    changed = [SAMPLED[0], others[field], *SAMPLED[2:]]
    assert LutFile(tmp_path / "stage2_1_0.csv", "all", value_input("table")).begin(changed) == 1


def test_an_edited_table_is_not_current(tmp_path: Path) -> None:
    file = begun(tmp_path, count=4)
    file.finish(SAMPLED)
    assert file.is_current()
    file.path.write_text(file.path.read_text().replace("0.25", "0.26", 1))
    assert not file.is_current()


def test_what_is_sampled_depends_on_the_seed_alone() -> None:
    assert sample_rows(SPACE, HWS, 4, "0-a") == SAMPLED
    assert sample_rows(SPACE, HWS, 4, "0-b") != SAMPLED


def test_evaluation_batches_cross_the_loaders_batches() -> None:
    batches = [(part, torch.zeros(len(part))) for part in torch.arange(20.0).split(8)]
    found = first_batches(batches, size=5, count=3)
    assert [part.tolist() for part in found] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    assert [len(part) for part in first_batches(batches, size=9, count=9)] == [9, 9, 2]


RECIPE = "{samples: 2, calibration_batches: 1, evaluation_batches: 1, evaluation_batch_size: 4}"


def given(world: World, *more: str) -> list[str]:
    folder = f"paths.lut={world.root / 'made'}"
    return [*world.settings, folder, "block=stage1", f"recipe.block_lut={RECIPE}", *more]


def test_the_search_follows_when_every_table_is_there(compose: Compose, world: World) -> None:
    job = make_job(compose("block_lut", *given(world, "block=stage1_0", "window=0")))
    assert isinstance(job, BlockLutJob)
    assert words_of(job._next()) >= {"+stage=block_lut"}
    assert not any(word.startswith(("block=", "window=")) for word in words_of(job._next()))
    world.layout.block("digits", "stage2", 1, False).unlink()
    assert words_of(job._next()) >= {"+stage=block_kd", "block=[stage2_1]"}
    job.workspace.lut.mkdir(parents=True, exist_ok=True)
    for key in lut_keys(DIGITS):
        (job.workspace.lut / lut_file_name(DIGITS, key)).touch()
    assert words_of(job._next()) >= {"+stage=space_search"}


def words_of(command: str) -> set[str]:
    return {*shlex.split(command)}


def test_damage_to_a_table_or_to_its_record_makes_it_due(compose: Compose, world: World) -> None:
    job = make_job(compose("block_lut", *given(world, "block=stage1_0", "window=0")))
    assert isinstance(job, BlockLutJob)
    table = job.workspace.lut / lut_file_name(DIGITS, next(iter(lut_keys(DIGITS))))
    for path in (table, lut_record(table)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0.25")
        before = job.inputs()["tables"].state(None)
        path.write_text("0.26")
        assert job.inputs()["tables"].state(None) != before


@pytest.mark.slow
def test_tables_are_kept_and_made_anew_one_by_one(run_stage: RunStage, world: World) -> None:
    """`block` and `window` say which are made, not what is in them; everything else decides."""
    assert run_stage("block_lut", *given(world, "block=stage1_0")).figures["files_made"] == 2
    assert run_stage("block_lut", *given(world)).figures == {"files": 6, "rows": 12, "files_made": 4}
    nudge(world.layout.block("digits", "stage1", 2, False))
    assert run_stage("block_lut", *given(world)).figures["files_made"] == 2
    (world.root / "made/stage1_1_0.csv").unlink()
    assert run_stage("block_lut", *given(world)).figures["files_made"] == 1
    assert (
        run_stage("block_lut", *given(world, "recipe.block_lut.cache_mib=1", "force=true")).figures["files_made"] == 6
    )


@pytest.mark.parametrize("samples", [1, 12])
def test_too_few_rows_to_score_spaces_by_are_told(
    run_stage: RunStage, world: World, capsys: pytest.CaptureFixture[str], samples: int
) -> None:
    run_stage("block_lut", *given(world, "block=stage1_0", "window=0", f"recipe.block_lut.samples={samples}"))
    told = " ".join(capsys.readouterr().out.split())
    assert ("samples = 1 rows a table are too few to score spaces by: stage1_0_0.csv will have none" in told) == (
        samples == 1
    )


def test_types_of_all_stages_take_turns_and_are_asked_for_together(
    compose: Compose, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(compose("block_lut", *given(world, "block=all")))
    assert isinstance(job, BlockLutJob)
    files = {key: LutFile(world.root / "new" / f"{key}.csv", "origin", value_input("")) for key in job.blocks}
    asked, filled = list[int](), list[tuple[int, int]]()
    monkeypatch.setattr(type(job.platform), "rows_ms", lambda _, rows: asked.append(len(rows)))
    builder = SimpleNamespace(fill=lambda key, *_: filled.append((key.block, key.stage)))
    monkeypatch.setattr("spaceevo.stages.block_lut._LutBuilder", lambda *_: builder)
    job._ask_latencies(files)
    job._make(files)
    assert asked == [job.settings.recipe.samples * len(files)]
    assert filled == sorted(filled) and len({stage for _, stage in filled[:6]}) == 3


def test_latencies_in_a_table_follow_the_platforms(
    run_stage: RunStage, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()
    monkeypatch.setattr("spaceevo.platforms.base.Platform.ready", lambda _, superspace: asked.append(superspace.name))
    run_stage("block_lut", *given(world, "window=0"))
    assert asked[0] == "digits"  # else rows would be sums of blocks that no whole network corrects
    assert {kind: told == done for kind, (told, done) in work_of(world.root.parent / "runs" / "block_lut").items()} == {
        "teacher's features": True,
        "rows": True,
        "measured blocks": True,
    }
    before = read_lut_file(world.root / "made/stage1_0_0.csv")
    world.scale_table(3.0)
    assert run_stage("block_lut", *given(world, "window=0")).figures["files_made"] == 3
    after = read_lut_file(world.root / "made/stage1_0_0.csv")
    assert [row.latency_ms for row in after] == pytest.approx([3 * row.latency_ms for row in before], rel=1e-3)
    assert [row.loss for row in after] == [row.loss for row in before]


def test_a_few_rows_are_filled_up_to_as_many_as_the_job_would_make(compose: Compose, world: World) -> None:
    job = make_job(compose("block_lut", *given(world, "block=stage2_0", "recipe.block_lut.samples=30")))
    assert isinstance(job, BlockLutJob)
    folder, resolutions = world.root / "few", job.superspace.block_resolutions
    for key in job.blocks:
        row = LutRow(format_substage(SPACE.smallest), 8, 12, loss=2.0, mflops=4.0, mparams=1.0, latency_ms=0.8)
        write_lut_file(folder / lut_file_name(job.superspace, key), [row])
        lut_record(folder / lut_file_name(job.superspace, key)).parent.mkdir(exist_ok=True)
        lut_record(folder / lut_file_name(job.superspace, key)).write_text("{}")
    fill(job, folder)
    for key in job.blocks:
        rows = read_lut_file(folder / lut_file_name(job.superspace, key))
        assert len(rows) == 30
        assert {row.hw for row in rows} == {job.superspace.input_hw("stage2", each) for each in resolutions}
        assert [row.latency_ms / row.mflops for row in rows] == pytest.approx([0.2] * 30, rel=0.01)
        assert kendalltau([row.mflops for row in rows], [row.loss for row in rows]).statistic < -0.3
        assert all(1.0 <= row.loss <= 4.0 for row in rows)
        assert not lut_record(folder / lut_file_name(job.superspace, key)).exists()


def test_interpolated_latencies_are_told(run_stage: RunStage, world: World, caplog: pytest.LogCaptureFixture) -> None:
    table = LatencyTable.load(world.table)
    table.model = Roofline({"MobileNetV2Res relu6": {"constant": 0.1}})
    table.entries.clear()
    table.save(world.table)
    run_stage("block_lut", *given(world, "block=stage1_0", "window=0", "platform.unknown_blocks=fitted"))
    assert "interpolated by its fitted model" in caplog.text


def test_a_student_that_was_not_distilled_names_the_command(run_stage: RunStage, world: World) -> None:
    world.layout.block("digits", "stage1", 1, False).unlink()
    with pytest.raises(MissingArtifactError, match=r"stage1_1/checkpoint.pth does not exist; .*\+stage=block_kd"):
        run_stage("block_lut", *given(world))


def test_a_missing_latency_is_told_before_the_teacher_works(
    run_stage: RunStage, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*settings: object) -> None:
        raise AssertionError("the teacher was loaded")

    monkeypatch.setattr("spaceevo.stages.block_lut.load_teacher", work)
    LatencyTable({"another block": 1.0}).save(world.table)
    with pytest.raises(TableError, match="lacks"):
        run_stage("block_lut", *world.settings, "block=stage2_1", "window=0", f"paths.lut={world.root / 'new'}")
