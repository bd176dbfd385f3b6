"""Stages run in this process, on a composed configuration."""

from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from spaceevo.artifacts import StageResult
from spaceevo.space.description import conf_folder
from spaceevo.stages.base import Context

RunStage = Callable[..., StageResult]


@pytest.fixture
def compose(tmp_path: Path) -> Iterator[Callable[..., DictConfig]]:
    """Compose the shipped configuration with `+stage=…` and overrides; outputs go to a folder of the stage's name."""

    def make(stage: str, *overrides: str) -> DictConfig:
        folders = [f"paths.root={tmp_path / 'runs'}", f"paths.output={tmp_path / 'runs' / stage}"]
        config = hydra.compose("config", [*folders, *overrides, f"+stage={stage}"], return_hydra_config=True)
        OmegaConf.resolve(config.paths)
        return config

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        yield make


@pytest.fixture
def context(compose: Callable[..., DictConfig]) -> Callable[..., Context]:
    """The context of stage evaluate under these overrides."""
    return lambda *overrides: Context(compose("evaluate", *overrides), "evaluate")


@pytest.fixture
def run_stage(compose: Callable[..., DictConfig]) -> RunStage:
    """Run a stage that does not train; return its result."""

    def run(stage: str, *overrides: str) -> StageResult:
        config = compose(stage, *overrides)
        result: StageResult = instantiate(config.hydra.callbacks[stage]).execute(config)
        return result

    return run
