"""Jobs run in this process, on a composed configuration."""

from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from spaceevo.artifacts import StageResult
from spaceevo.jobs.runner import run
from spaceevo.space.description import conf_folder
from spaceevo.stages.base import StageCallback

RunStage = Callable[..., StageResult]
CALLBACKS = {
    "benchmark": "spaceevo.stages.benchmark.BenchmarkStage",
    "export": "spaceevo.stages.export.ExportStage",
    "profile": "spaceevo.stages.profile.ProfileStage",
}
"""Not jobs yet."""


@pytest.fixture
def compose(tmp_path: Path) -> Iterator[Callable[..., DictConfig]]:
    """Compose the shipped configuration with `+stage=…` and overrides; outputs go to a folder of the job's name."""

    def make(stage: str, *overrides: str) -> DictConfig:
        folders = [f"paths.root={tmp_path / 'runs'}", f"paths.output={tmp_path / 'runs' / stage}"]
        config = hydra.compose("config", [*folders, *overrides, f"+stage={stage}"], return_hydra_config=True)
        OmegaConf.resolve(config.paths)
        return config

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        yield make


@pytest.fixture
def run_stage(compose: Callable[..., DictConfig]) -> RunStage:
    """Run a job; return its result."""

    def execute(stage: str, *overrides: str) -> StageResult:
        config = compose(stage, *overrides)
        if stage in CALLBACKS:
            callback: StageCallback = resolve_name(CALLBACKS[stage])()
            return callback.execute(config)
        return run(config)

    return execute
