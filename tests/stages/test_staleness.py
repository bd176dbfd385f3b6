"""A result is made anew where anything that decides it changed, and kept where nothing did."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from spaceevo.artifacts import SpaceChoice
from tests.stages.conftest import Compose, World, nudge

MadeAnew = Callable[[DictConfig], bool]
SPACE = "digits-012-000"
IDLE = ["data.num_workers=0", "data.cache_mib=7", "data.eval_batch_size=3", "trainer.devices=2"]
"""Settings that change no result."""
JOBS = {
    "block_lut": [
        "block=stage1_0",
        "window=0",
        "recipe.block_lut={samples: 2, calibration_batches: 1, evaluation_batches: 1, evaluation_batch_size: 4}",
    ],
    "space_search": [
        "paths.lut={root}/lut",
        "latency_constraint=6.5",
        "recipe.space_search={samples: 500, local: {total: 4}}",
    ],
    "subnet_search": [
        f"space={SPACE}",
        "latency_constraint=5",
        "recipe.subnet_search={tested: 1, front: {population: 2, generations: 1, children: 1}}",
    ],
    "evaluate": [f"space={SPACE}"],
    "predict_latency": [f"space={SPACE}", "recipe.predict_latency.random_subnets=2"],
    "fit_latency": ["source={root}/lut", "platform.table={root}/fitted.json"],
}
IMAGES = {"block_lut", "subnet_search", "evaluate"}
LATENCIES = {"block_lut", "space_search", "subnet_search", "predict_latency"}


def changed(config: DictConfig, *overrides: str) -> DictConfig:
    """A config with other values, without composing it anew."""
    other = copy.deepcopy(config)
    for key, _, value in (text.partition("=") for text in overrides):
        OmegaConf.update(other, key, yaml.safe_load(value))
    return other


def settings(world: World, job: str) -> list[str]:
    return [*world.settings, *(text.replace("{root}", str(world.root)) for text in JOBS[job])]


@pytest.mark.parametrize("job", JOBS)
def test_a_result_lasts_until_something_changes(compose: Compose, made_anew: MadeAnew, world: World, job: str) -> None:
    config = compose(job, *settings(world, job))
    assert made_anew(config)
    assert not made_anew(changed(config, *IDLE, *world.move_images()))
    config = changed(config, "seed=5")
    assert made_anew(config)
    if job in IMAGES:
        world.change_image()
        assert made_anew(config)
    if job in LATENCIES:
        world.scale_table(3.0, entries=1)
        assert made_anew(config)
    assert not made_anew(config)


UPSTREAM = [
    ("block_lut", "checkpoints/block_kd/teacher_checkpoint/resnet10/checkpoint.pth"),
    ("block_lut", "checkpoints/block_kd/digits/stage1_0/checkpoint.pth"),
    ("subnet_search", f"checkpoints/supernet_training/{SPACE}-align0/checkpoint.pth"),
    ("evaluate", f"checkpoints/supernet_training/{SPACE}-align0/checkpoint.pth"),
]


@pytest.mark.parametrize(("job", "file"), UPSTREAM)
def test_one_other_weight_makes_it_anew(
    compose: Compose, made_anew: MadeAnew, world: World, job: str, file: str
) -> None:
    config = compose(job, *settings(world, job))
    made_anew(config)
    nudge(world.root / file)
    assert made_anew(config)


def test_one_other_figure_in_a_look_up_table_makes_the_search_anew(
    compose: Compose, made_anew: MadeAnew, world: World
) -> None:
    config = compose("space_search", *settings(world, "space_search"))
    made_anew(config)
    file = world.lut / "stage2_1_0.csv"
    file.write_text(file.read_text().replace("0.4", "0.5", 1))
    assert made_anew(config)


@pytest.mark.parametrize("job", ["evaluate", "subnet_search", "predict_latency"])
def test_another_chosen_space_makes_it_anew(compose: Compose, made_anew: MadeAnew, world: World, job: str) -> None:
    """Where none is asked for, the space search decides, and its latency constraint with `auto`."""
    given = [text for text in settings(world, job) if not text.startswith(("space=", "latency_constraint="))]
    given += ["weights=random"] if job != "predict_latency" else []
    file = world.layout.space_choice("digits")
    SpaceChoice(SPACE, (5.0,), 1.0, 0.1, 0.5).write(file)
    config = compose(job, *given)
    assert made_anew(config)
    assert not made_anew(config)
    SpaceChoice("digits-000-000", (5.0,), 1.0, 0.1, 0.5).write(file)
    assert made_anew(config)
    if job == "subnet_search":
        SpaceChoice("digits-000-000", (4.0,), 1.0, 0.1, 0.5).write(file)
        assert made_anew(config)


def test_a_lost_output_makes_it_anew(compose: Compose, made_anew: MadeAnew, world: World) -> None:
    config = compose("predict_latency", *settings(world, "predict_latency"))
    made_anew(config)
    (Path(config.paths.output) / "subnets.csv").unlink()
    assert made_anew(config)
