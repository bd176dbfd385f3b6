"""Every job that reads a trained network and images: labels by class name, images as in training, else one line."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spaceevo.errors import CheckpointError, ConfigError
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.quantizer import DEPLOY
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.stages.extraction import Subject
from tests.stages.conftest import CLASSES, MEMBER, SPACE, RunStage, World

QUICK = "recipe.subnet_search={tested: 1, front: {population: 2, generations: 1, children: 1}}"
JOBS = {
    "evaluate": [f"space={SPACE}"],
    "subnet_search": [f"space={SPACE}", "latency_constraint=5", QUICK],
    "export": [f"space={SPACE}", "subnet=min"],
    "supernet": [f"space={SPACE}"],
    "teacher": [],
}
TRAINED = {"size": 32, "resize": 32, "mean": [0.31] * 3, "std": [0.35] * 3, "interpolation": "bicubic"}
LAST = "stages.logits.blocks.0.layers.linear.convs.0."


def retold(path: Path, **changes: object) -> None:
    """Let a checkpoint say something else of itself."""
    content = torch.load(path, weights_only=True)
    torch.save({**content, "meta": {**content["meta"], **changes}}, path)


def rename(world: World, old: str, new: str) -> None:
    for part in ("train", "val"):
        (world.images / part / old).rename(world.images / part / new)


@contextmanager
def without(world: World, name: str) -> Iterator[None]:
    """Put a class of the images aside."""
    places = {world.images / part / name: world.root / f"{part}_{name}" for part in ("train", "val")}
    for place, aside in places.items():
        place.rename(aside)
    yield
    for place, aside in places.items():
        aside.rename(place)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm is recalibrated on the same pictures, whichever classes the images have."""
    pictures = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(ImageFolderDataModule, "calibration_images", lambda _: [pictures])


@pytest.fixture
def decided(world: World) -> World:
    """A world whose network takes every image for one of the three classes."""
    path = world.layout.supernet(SPACE, False)
    content = torch.load(path, weights_only=True)
    bias: Tensor = content["state_dict"][f"{LAST}bias"]
    bias[len(CLASSES) :] = -100
    torch.save(content, path)
    return world


def correct(run_stage: RunStage, world: World, *overrides: str) -> list[int]:
    """Correct answers of the largest and the smallest subnet."""
    result = run_stage("evaluate", *world.settings, f"space={SPACE}", *overrides)
    return [row["correct"] for row in result.figures["subnets"]]


@pytest.mark.usefixtures("steady")
def test_some_of_the_classes_count_as_they_do_among_all(
    run_stage: RunStage, decided: World, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = correct(run_stage, decided)
    assert sum(whole) > 0
    pairs: list[Sequence[int]] = []
    for left_out in CLASSES:
        with without(decided, left_out):
            capsys.readouterr()
            pairs.append(correct(run_stage, decided))
            assert "evaluates on 2 of the network's 3 classes" in capsys.readouterr().out
    assert [sum(counts) for counts in zip(*pairs, strict=True)] == [2 * count for count in whole]


@pytest.mark.usefixtures("steady")
def test_classes_in_another_order_count_alike(run_stage: RunStage, decided: World) -> None:
    whole = correct(run_stage, decided)
    path, order = decided.layout.supernet(SPACE, False), [2, 0, 1, *range(3, 10)]
    content = torch.load(path, weights_only=True)
    for name in ("weight", "bias"):
        content["state_dict"][LAST + name] = content["state_dict"][LAST + name][order]
    content["meta"]["classes"] = [CLASSES[index] for index in order[:3]]
    torch.save(content, path)
    assert correct(run_stage, decided) == whole


@pytest.mark.parametrize("job", JOBS)
def test_other_classes_are_refused_in_every_job_alike(run_stage: RunStage, int8_world: World, job: str) -> None:
    rename(int8_world, "b", "cow")
    given = [*int8_world.settings, "quant=deploy", *JOBS[job]]
    with pytest.raises(ConfigError, match=r"knows 3 classes \(a, b, c\), and not cow of data.root .*; set") as told:
        run_stage(job, *given)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize("job", JOBS)
def test_other_preprocessing_is_refused_in_every_job_alike(run_stage: RunStage, int8_world: World, job: str) -> None:
    layout = int8_world.layout
    for path in (layout.supernet(SPACE, False), layout.supernet(SPACE, True), layout.teacher("resnet10", False)):
        retold(path, transform=TRAINED)
    given = [*int8_world.settings, "quant=deploy", *JOBS[job], "data.transform.mean=[0.1,0.2,0.3]"]
    with pytest.raises(ConfigError, match="data.transform.mean is .* was trained with data.transform.mean=") as told:
        run_stage(job, *given)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize("job", [*sorted(JOBS.keys() - {"teacher"}), "block_kd", "block_lut"])
def test_images_smaller_than_the_resolution_are_refused(run_stage: RunStage, int8_world: World, job: str) -> None:
    given = [*int8_world.settings, *JOBS.get(job, []), "quant=off" if job.startswith("block") else "quant=deploy"]
    with pytest.raises(ConfigError, match="data.transform.size is 16; allowed: at least 32, the largest resolution"):
        run_stage(job, *given, "data.transform.size=16")


def test_a_kept_subnet_has_the_classes_of_its_supernet(run_stage: RunStage, int8_world: World) -> None:
    """Searched on images of two of the three classes."""
    with without(int8_world, "b"):
        found = run_stage("subnet_search", *int8_world.settings, "quant=deploy", *JOBS["subnet_search"])
    path, *_ = Path(found.outputs["subnets"]).glob("*_int8.pth")
    meta = read_checkpoint(path, "subnet").meta
    assert meta.classes == CLASSES
    assert meta.transform["mean"] == [0.31] * 3


@pytest.fixture
def subnet(int8_world: World) -> Path:
    """A subnet's own checkpoint, as finetuning leaves it."""
    supernet, path = Supernet(MEMBER), int8_world.root / "subnet.pth"
    read_checkpoint(int8_world.layout.supernet(SPACE, True), "supernet").load_into(supernet, int8=True)
    meta = CheckpointMeta(SPACE, str(MEMBER.smallest), classes=CLASSES, transform=TRAINED, quant="deploy")
    save_checkpoint(path, supernet.eval().extract(MEMBER.smallest), meta)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "data.transform.mean=[0.5,0.5,0.5]",
            "subnet.pth was trained with data.transform.mean=.0.31,0.31,0.31.: set that",
        ),
        ("data.transform.size=24", "data.transform.size is 24; .*subnet.pth was trained with data.transform.size=32"),
        ("data.transform.size=16", "data.transform.size is 16; allowed: at least 24, the largest resolution"),
        ("cow", r"subnet.pth knows 3 classes \(a, b, c\), and not cow of data.root"),
    ],
)
def test_a_subnet_is_exported_on_what_it_was_finetuned_on(
    run_stage: RunStage, int8_world: World, subnet: Path, change: str, words: str
) -> None:
    if change == "cow":
        rename(int8_world, "b", "cow")
    changes = [change] if "=" in change else []
    with pytest.raises(ConfigError, match=words):
        run_stage("export", *int8_world.settings, "quant=deploy", f"checkpoint={subnet}", *changes)


def test_students_are_judged_on_what_they_were_distilled_on(run_stage: RunStage, world: World) -> None:
    retold(world.layout.block("digits", "stage1", 0, False), transform=TRAINED)
    given = [*world.settings, "block=stage1_0", "window=0", "data.transform.mean=[0.5,0.5,0.5]"]
    with pytest.raises(ConfigError, match=r"stage1_0/checkpoint.pth was trained with data.transform.mean=\[0.31,"):
        run_stage("block_lut", *given)


def test_a_teacher_of_other_images_is_told_of(
    run_stage: RunStage, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    retold(world.layout.teacher("resnet10", False), transform=TRAINED)
    recipe = "{samples: 2, calibration_batches: 1, evaluation_batches: 1, evaluation_batch_size: 4}"
    given = ["block=stage1_0", "window=0", "data.transform.mean=[0.5,0.5,0.5]", f"recipe.block_lut={recipe}"]
    run_stage("block_lut", *world.settings, *given)
    told = "teacher resnet10 was trained with data.transform.mean=[0.31,0.31,0.31], not [0.5,0.5,0.5]"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("job", ["evaluate", "subnet_search"])
def test_one_subnet_is_no_supernet(run_stage: RunStage, int8_world: World, subnet: Path, job: str) -> None:
    given = [*int8_world.settings, "quant=deploy", *JOBS[job], f"checkpoint={subnet}"]
    with pytest.raises(
        CheckpointError, match=r"subnet.pth is of one subnet, d1.*; \+stage=export tells its top-1; set"
    ):
        run_stage(job, *given)


def test_a_class_keeps_its_commas_in_a_file() -> None:
    network = Network.fixed(MEMBER, MEMBER.smallest, DEPLOY)
    subject = Subject(MEMBER, MEMBER.smallest, network, "deploy", None)
    names = ["tench, Tinca tinca", "épée"]
    told = subject.metadata(names, Preprocessing((0.5,), (0.5,), 32, 32))
    assert json.loads(told["classes"]) == names
