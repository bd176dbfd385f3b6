"""When a job that trains runs again, and when it is skipped: nothing that decides weights may change unseen."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps

from spaceevo.artifacts import StageResult, read_sealed_json
from spaceevo.errors import ConfigError
from spaceevo.jobs.steps import Step, look_ahead
from spaceevo.lit.module import Trainer
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.supernet import Supernet
from spaceevo.space.description import parse_space
from tests.jobs.conftest import CLASSES, TINY, Compose, RunJob

SPACE = "space=digits-012-010"
BLOCK = "block=stage1_2"
TRAINED = "runs/checkpoints"
TEACHER = f"{TRAINED}/block_kd/teacher_checkpoint/resnet10"


class World:
    """Runs jobs on a few images, and tells whether one trained.

    Args:
        folder: everything lies here.
        images: the folder of images.
        run: runs a job.
        fits: counts the trainings.
    """

    def __init__(self, folder: Path, images: Path, run: RunJob, fits: list[int]) -> None:
        self.folder, self.images = folder, images
        self._run, self._fits = run, fits
        self.last = StageResult("", "", None, {})

    def trains(self, job: str, *overrides: str) -> bool:
        """Run a job; return whether a network was trained."""
        before = len(self._fits)
        self.last = self._run(job, *overrides)
        return len(self._fits) > before


@pytest.fixture
def world(tmp_path: Path, images: Path, tiny: RunJob, monkeypatch: pytest.MonkeyPatch) -> World:
    fits: list[int] = []
    fit: Callable[..., None] = Trainer.fit

    def counted(trainer: Trainer, *arguments: object, **named: object) -> None:
        fits.append(trainer.max_epochs or 0)
        fit(trainer, *arguments, **named)

    monkeypatch.setattr(Trainer, "fit", counted)
    return World(tmp_path, images, tiny, fits)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("block_kd", "finetune")]


@pytest.fixture(params=["teacher", "supernet", *SLOW])
def job(request: pytest.FixtureRequest, world: World) -> Iterator[tuple[str, ...]]:
    """A training job and what it needs, INT8 for the last two, whose upstream is written at random."""
    member = parse_space("digits-012-010")
    torch.manual_seed(0)
    words: dict[str, tuple[str, ...]] = {
        "teacher": ("teacher",),
        "block_kd": ("block_kd", BLOCK),
        "supernet": ("supernet", SPACE),
        "finetune": ("finetune", "quant=off", f"checkpoint={world.folder / 'subnet.pth'}"),
    }
    if request.param == "block_kd":
        assert world.trains("teacher")
    if request.param == "finetune":
        network = Supernet(member).extract(member.smallest)
        meta = CheckpointMeta(str(member), str(member.smallest), classes=tuple("0123456789"), quant="off")
        save_checkpoint(world.folder / "subnet.pth", network, meta)
    yield words[request.param]


def upstream(world: World, job: str) -> Path | None:
    """The weights a job begins with."""
    return {"block_kd": world.folder / TEACHER / "checkpoint.pth", "finetune": world.folder / "subnet.pth"}.get(job)


SETTINGS = {
    "teacher": ["recipe.label_smoothing=0.2"],
    "block_kd": ["+recipe.lr_by_stage.fp32.stage1=0.5"],
    "supernet": ["recipe.label_smoothing=0.2", "recipe.dropout=0.3", "recipe.subnet_loss=labels"],
    "finetune": ["recipe.label_smoothing=0.2", "recipe.finetune.freeze_body=true"],
}


@pytest.mark.slow
def test_what_decides_the_weights_makes_them_anew(
    world: World, job: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.trains(*job)
    assert not world.trains(*job)
    assert "unchanged, skipped" in capsys.readouterr().out
    for change in ["max_epochs=2", "recipe.threads=2", "seed=1", "data.batch_size=4", *SETTINGS[job[0]]]:
        assert world.trains(*job, change), change
    assert world.trains(*job)
    torch.set_num_threads(1)
    weights = upstream(world, job[0])
    if weights is not None:
        content = torch.load(weights, weights_only=True)
        weight = next(iter(content["state_dict"].values()))
        weight[(0,) * weight.ndim] += 1e-3
        torch.save(content, weights)
        assert world.trains(*job)
        assert not world.trains(*job)


def invert(images: Path) -> None:
    path = images / "train/cat/0.png"
    ImageOps.invert(Image.open(path)).save(path)


def swap_classes(images: Path) -> None:
    (images / "train/cat").rename(images / "train/x")
    (images / "train/dog").rename(images / "train/cat")
    (images / "train/x").rename(images / "train/dog")


def remove_most_of_a_class(images: Path) -> None:
    for number in range(1, 6):
        (images / f"train/cow/{number}.png").unlink()


def remove_test_images(images: Path) -> None:
    shutil.rmtree(images / "val")


CHANGES = [invert, swap_classes, remove_most_of_a_class, remove_test_images]


def test_other_images_would_make_the_weights_anew(world: World, compose: Compose) -> None:
    supernet = Step("supernet", "supernet", "off")
    config = compose("+stage=supernet", *TINY, SPACE, f"data.root={world.images}")
    assert world.trains("supernet", SPACE)
    before = world.images.rename(world.folder / "before")
    for change in CHANGES:
        shutil.copytree(before, world.images)
        assert [one.verdict for one in look_ahead([supernet], [config])] == ["be skipped"]
        change(world.images)
        assert [one.verdict for one in look_ahead([supernet], [config])] == ["run"], change
        shutil.rmtree(world.images)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_other_images_make_the_weights_anew(world: World, change: Callable[[Path], None]) -> None:
    assert world.trains("supernet", SPACE)
    change(world.images)
    assert world.trains("supernet", SPACE)
    assert not world.trains("supernet", SPACE)


def test_images_count_wherever_they_lie_and_what_decides_nothing_does_not(
    world: World, job: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.trains(*job)
    loading = ["num_workers=1", "cache_mib=0", "decoded_cache_gib=1", "eval_batch_size=3", "prefetch_factor=3"]
    loading += [f"decoded_cache={world.folder / 'decoded'}"]
    assert not world.trains(*job, *(f"data.{text}" for text in loading), "trainer.log_every_n_steps=1")
    monkeypatch.setenv("SPACEEVO_CACHE", str(world.folder / "other_cache"))
    assert not world.trains(*job)
    moved, copied = world.folder / "moved", world.folder / "copied"
    world.images.rename(moved)
    assert not world.trains(*job, f"data.root={moved}")
    shutil.copytree(moved, copied, copy_function=shutil.copyfile)
    for file in copied.rglob("*.png"):
        os.utime(file, (time.time() - 1000, time.time() - 1000))
    assert not world.trains(*job, f"data.root={copied}")
    invert(copied)
    assert world.trains(*job, f"data.root={copied}")


def test_force_and_a_missing_checkpoint_make_anew(world: World, job: tuple[str, ...]) -> None:
    assert world.trains(*job)
    assert world.trains(*job, "force=true")
    (made,) = (path for path in world.last.outputs.values() if path.endswith(".pth"))
    Path(made).unlink()
    assert world.trains(*job)
    assert not world.trains(*job)


def test_int8_weights_follow_the_fp32_ones(world: World) -> None:
    assert world.trains("supernet", SPACE)
    assert world.trains("supernet", SPACE, "quant=deploy")
    assert not world.trains("supernet", SPACE, "quant=deploy")
    assert world.trains("supernet", SPACE, "seed=1")
    assert world.trains("supernet", SPACE, "quant=deploy")


@pytest.mark.slow
def test_a_block_that_joins_leaves_the_others_as_they_are(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.trains("teacher")
    assert world.trains("block_kd", "block=[stage1_2]")
    capsys.readouterr()
    assert world.trains("block_kd", "block=[stage1_2,stage2_0]")
    told = capsys.readouterr().out
    assert "stage1_2: unchanged, skipped" in told
    assert "stage2_0: unchanged" not in told


def test_a_copied_chain_stands_by_its_own_files(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Not by those that it was copied from, which may be gone, or whole where the copy's are not."""
    assert world.trains("supernet", SPACE)
    copy = world.folder / "copy"
    shutil.copytree(world.folder / "runs", copy)
    words = ("supernet", SPACE, f"paths.root={copy}")
    assert not world.trains(*words)
    assert "supernet: unchanged, skipped" in capsys.readouterr().out
    made = StageResult.load(copy / "supernet_fp32")
    assert made is not None
    files = [Path(path) for path in made.outputs.values()]
    assert len(files) > 1
    assert all(path.is_relative_to(copy) and path.exists() for path in files)
    (weights,) = [path for path in files if path.suffix == ".pth"]
    whole = weights.read_bytes()
    for damage in (weights.unlink, lambda: weights.write_bytes(whole[:-9] + b"\0" + whole[-8:])):
        damage()
        assert world.trains(*words)
        assert "supernet: runs again, since " in capsys.readouterr().out
        assert weights.exists()
        shutil.move(copy, world.folder / "moved")
        assert not world.trains(*words[:2], f"paths.root={world.folder / 'moved'}")
        shutil.move(world.folder / "moved", copy)


def test_a_result_of_another_version_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.trains("supernet", SPACE)
    file = world.folder / "runs/supernet_fp32/result.json"
    record = read_sealed_json(file)
    assert record["device"] == "cpu"
    assert record["inputs"].keys() == {"images"}
    assert record["settings"]["max_epochs"] == 1
    assert record["made"][:2] == "20"
    record["versions"]["spaceevo"] = "0.0.7"
    file.write_text(json.dumps(record))
    capsys.readouterr()
    assert not world.trains("supernet", SPACE)
    assert "by spaceevo 0.0.7, this is" in capsys.readouterr().out


def test_what_changed_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.trains("supernet", SPACE)
    capsys.readouterr()
    assert world.trains("supernet", SPACE, "max_epochs=2", "recipe.dropout=0.3")
    assert "supernet: runs again, since max_epochs 1 → 2, dropout 0.0 → 0.3" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_run_goes_on_under_the_settings_it_began_with(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = ("supernet", SPACE, "recipe.supernet.fp32.warmup_epochs=1")

    def weights() -> dict[str, torch.Tensor]:
        return read_checkpoint(Path(world.last.outputs["supernet_fp32"]), "supernet", "").state

    def kill_in_epoch(number: int, epochs: int) -> None:
        from spaceevo.lit.supernet import SupernetModule

        def die(module: SupernetModule) -> None:
            if module.current_epoch == number:
                raise SystemError

        with monkeypatch.context() as patch, pytest.raises(SystemError):
            patch.setattr(SupernetModule, "on_train_epoch_start", die)
            world.trains(*recipe, f"max_epochs={epochs}", "force=true")

    assert world.trains(*recipe, "max_epochs=6")
    six = weights()
    assert world.trains(*recipe, "max_epochs=8")
    eight = weights()

    kill_in_epoch(2, 6)
    capsys.readouterr()
    assert world.trains(*recipe, "max_epochs=6")
    assert "resumes from" in capsys.readouterr().out
    assert all(torch.equal(value, six[key]) for key, value in weights().items())

    kill_in_epoch(2, 6)
    capsys.readouterr()
    assert world.trains(*recipe, "max_epochs=8")
    told = capsys.readouterr().out
    assert "starts over, since an unfinished run began with other settings or inputs: " in told
    assert "max_epochs 6 → 8" in told
    assert "resumes" not in told
    assert all(torch.equal(value, eight[key]) for key, value in weights().items())


def test_classes_that_do_not_fit_are_named(world: World) -> None:
    few = "superspace.stages.logits.widths=[3]"
    with pytest.raises(ConfigError, match=rf"has {len(CLASSES)} classes, superspace digits has 3; set superspace\."):
        world.trains("supernet", SPACE, few)
