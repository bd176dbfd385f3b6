"""The published recipes, composed by name."""

from __future__ import annotations

import pytest
from hydra.utils import instantiate

from spaceevo.lit.module import Recipe
from tests.jobs.conftest import Compose

# experiment: (stage, precision, epochs, rate, images a process, processes, warm-up, weight decay)
PUBLISHED = {
    "block_kd": ("block_kd", "off", 5, 0.01, 64, 4, 0, 1e-4),
    "block_kd_int8": ("block_kd", "deploy", 1, 0.00125, 32, 4, 0, 1e-4),
    "supernet": ("supernet", "off", 360, 0.1, 64, 8, 5, 1e-5),
    "supernet_int8": ("supernet", "deploy", 50, 0.01, 32, 8, 3, 1e-5),
    "teacher": ("teacher", "deploy", 1, 0.001, 12, 1, 0, 1e-4),
}


@pytest.mark.parametrize("space", ["mobilew", "onnxw"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_hyper_parameters(compose: Compose, space: str, name: str) -> None:
    stage, quant, epochs, rate, images, processes, warmup, decay = PUBLISHED[name]
    config = compose(f"experiment={space}/{name}")
    assert (config.superspace.name, config.stage.name, config.quant.name) == (space, stage, quant)
    settings = config.recipe[stage][config.quant.precision]
    recipe = instantiate(settings)
    assert isinstance(recipe, Recipe)
    assert (recipe.epochs, recipe.warmup_epochs) == (epochs, warmup)
    assert (settings.optimizer.lr, settings.optimizer.weight_decay) == (rate, decay)
    assert config.data.batch_size == images
    assert config.data.transform.auto_augment == (stage == "supernet")
    assert config.data.transform.interpolation == "bicubic"
    if recipe.lr_batch_size is not None:
        factor = max(1, images * processes // recipe.lr_batch_size)
        assert factor == {"supernet": 2}.get(name, 1)  # .1 · (8 · 64 // 256) is what was published


def test_published_rates_of_stages(compose: Compose) -> None:
    assert compose("experiment=mobilew/block_kd").stage.settings.lr_by_stage == {"stage1": 0.005, "stage6": 0.005}
    assert compose("experiment=mobilew/block_kd_int8").stage.settings.lr_by_stage == {}


def test_every_value_can_be_overridden_and_the_stage_named(compose: Compose) -> None:
    config = compose(
        "+stage=supernet", "experiment=onnxw/supernet", "recipe.supernet.fp32.epochs=2", "data.batch_size=8"
    )
    assert (config.stage.settings.recipe.epochs, config.data.batch_size) == (2, 8)


@pytest.mark.parametrize("words", ["superspace=digits", "superspace=onnxw", "data=cifar10", "data=fashion_mnist"])
def test_debug_fast_caps_whatever_looks_at_images(compose: Compose, words: str) -> None:
    config = compose("+stage=cost", "debug=fast", words)
    data, recipe = config.data, config.recipe
    assert max(data.train_images, data.test_images) <= 32
    assert data.calibration_batches * data.calibration_batch_size <= 32
    assert recipe.export.calibration_images <= 32
    lut = recipe.block_lut
    assert (lut.calibration_batches + lut.evaluation_batches) * lut.evaluation_batch_size <= 32
    assert (config.max_epochs, config.trainer.limit_train_batches) == (1, 2)


def test_processes_and_nodes_are_the_launchers(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    def launched() -> tuple[int, int]:
        trainer = compose("+stage=cost", "trainer=ddp").trainer
        return trainer.devices, trainer.num_nodes

    assert launched() == (1, 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert launched() == (8, 2)


@pytest.mark.parametrize(("launcher", "package"), [("joblib", "joblib"), ("submitit_slurm", "submitit")])
def test_launchers_of_many_jobs(compose: Compose, launcher: str, package: str) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{package}_launcher")
    config = compose("+stage=cost", f"hydra/launcher={launcher}")
    assert package in config.hydra.launcher._target_
