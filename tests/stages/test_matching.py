"""Every job that reads a trained network and images: labels by class name, images as in training, else one line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spaceevo.errors import ConfigError
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.nn.loading import read_checkpoint
from tests.stages.conftest import CLASSES, SPACE, RunStage, World

QUICK = "recipe.subnet_search={tested: 1, front: {population: 2, generations: 1, children: 1}}"
JOBS = {
    "evaluate": [f"space={SPACE}"],
    "subnet_search": [f"space={SPACE}", "latency_constraint=5", QUICK],
    "export": [f"space={SPACE}", "subnet=min"],
    "supernet": [f"space={SPACE}"],
}
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
            assert "evaluates on 2 of the network's 3 classes\n" in capsys.readouterr().out
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
    with pytest.raises(
        ConfigError, match=r"knows 3 classes \(a, b, c\), data.root .* of which it lacks cow; set"
    ) as told:
        run_stage(job, *given)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize("job", JOBS)
def test_other_preprocessing_is_refused_in_every_job_alike(run_stage: RunStage, int8_world: World, job: str) -> None:
    trained = {"size": 32, "resize": 32, "mean": [0.31] * 3, "std": [0.35] * 3, "interpolation": "bicubic"}
    for int8 in (False, True):
        retold(int8_world.layout.supernet(SPACE, int8), transform=trained)
    given = [*int8_world.settings, "quant=deploy", *JOBS[job], "data.transform.mean=[0.1,0.2,0.3]"]
    with pytest.raises(
        ConfigError, match=rf"data.transform.{name} is .* was trained with data.transform.{name}="
    ) as told:
        run_stage(job, *given)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize("job", [*JOBS, "block_kd", "block_lut"])
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
