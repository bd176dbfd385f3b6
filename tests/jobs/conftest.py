"""Jobs run in this process, on the shipped configuration and a few small images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image

from spaceevo.artifacts import StageResult
from spaceevo.jobs.runner import run
from spaceevo.space.description import conf_folder
from tests.composing import composed

Compose = Callable[..., DictConfig]
RunJob = Callable[..., StageResult]
CLASSES = ("cat", "cow", "dog", "eel")
TINY = (
    "superspace=digits",
    "max_epochs=1",
    "trainer.accelerator=cpu",
    "trainer.limit_train_batches=1",
    "data.batch_size=8",
    "data.holdout=4",
    "data.eval_batch_size=8",
    "data.calibration_batches=1",
    "data.calibration_batch_size=8",
)
"""One step of training on a few images."""
SMALLEST_CHAIN = (
    "debug=fast",
    "recipe.subnet_search.tested=1",
    "recipe.space_search.samples=500",
    "recipe.benchmark.repeats=2",
    "recipe.export.repeats=2",
    "superspace.candidates=[{type:MobileNetV3Res,kernels:[3,5],expands:[2,3],act:hswish}]",
    "superspace.stages.stage3.widths=[40,48]",
)
"""A pipeline of one candidate."""


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compose]:
    """Compose the shipped configuration as a command line would; a job's output folder is the one it has there.

    Steps of a pipeline are composed in the same way.
    """
    hydras = SimpleNamespace(compose=lambda name, overrides, **_: composed(overrides))
    monkeypatch.setattr("spaceevo.jobs.steps.hydra", hydras)

    def make(*overrides: str) -> DictConfig:
        given = [*overrides]
        if not any(text.startswith("paths.root=") for text in given):
            given.append(f"paths.root={tmp_path / 'runs'}")
        config = composed(given)
        config.paths.output = f"{config.paths.root}/{config.stage.folder}"
        return config

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        yield make


@cache
def defaults(job: str, superspace: str = "digits") -> DictConfig:
    """The composed configuration of a job, made once: `changed` leaves it as it was."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        given = [f"+stage={job}", f"superspace={superspace}", "paths.root=runs"]
        config = composed(given)
    GlobalHydra.instance().clear()
    config.paths.output = f"runs/{config.stage.folder}"
    return config


@contextmanager
def changed(job: str, *overrides: str) -> Iterator[DictConfig]:
    """Give the configuration of a job with other values, read as on a command line; it composes nothing anew."""
    config, before = defaults(job), {}
    parsed = OverridesParser.create().parse_overrides([*overrides])
    for override in parsed:
        place, node = _place(config, override.key_or_group)
        is_tree = isinstance(node, DictConfig | ListConfig)
        before[place] = OmegaConf.to_container(node, resolve=False) if is_tree else node._value()
    try:
        for override in parsed:
            OmegaConf.update(config, override.key_or_group, override.value(), force_add=True)
        yield config
    finally:
        for place, value in before.items():
            OmegaConf.update(config, place, value, merge=False)


def _place(config: DictConfig, key: str) -> tuple[str, Any]:
    """What is put back after a change of this key: the tree two names down, or the one above where that has none."""
    top, _, rest = key.partition(".")
    node, name = config._get_node(top), rest.partition(".")[0]
    inner = node._get_node(name) if name and isinstance(node, DictConfig) and name in node else None
    return (f"{top}.{name}", inner) if isinstance(inner, DictConfig | ListConfig) else (top, node)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images, six to train on and two to test on for each of four classes."""
    root, rng = tmp_path / "images", np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (32, 32, 3)) + 45 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture
def tiny(compose: Compose, images: Path) -> RunJob:
    """Run a job by `+stage=…` and overrides on those images, one step of training."""

    def execute(job: str, *overrides: str) -> StageResult:
        given = [*TINY, f"data.root={images}"]
        replaced = {text.partition("=")[0] for text in overrides}
        kept = [text for text in given if text.partition("=")[0] not in replaced]
        return run(compose(f"+stage={job}", *kept, *overrides))

    return execute
