"""The shipped platforms' settings fit what they are settings of."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from spaceevo.runtimes.registry import RUNTIMES
from spaceevo.space.description import conf_folder

FILES = sorted((conf_folder() / "platform").glob("*.yaml"))


def settings(path: Path) -> DictConfig:
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_setting_is_an_argument_and_every_needed_argument_set(path: Path) -> None:
    config = settings(path)
    names = [str(key) for key in config if not str(key).startswith("_")]
    inspect.signature(get_class(config._target_)).bind(**dict.fromkeys(names))
    assert config.name == path.stem
    assert config.get("runtime", "litert") in RUNTIMES


def test_files_for_phones_and_microcontrollers_are_not_packed() -> None:
    packed = {path.stem: settings(path).get("packed_channels") for path in FILES}
    assert packed.pop("adb") == packed.pop("pixel4") == packed.pop("tflite_micro") == 1
    assert set(packed.values()) == {None}
