"""The shipped platforms' settings fit what they are settings of."""

import inspect
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from spaceevo.errors import TableError
from spaceevo.platforms.none import NoPlatform
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.runtimes.registry import RUNTIMES
from spaceevo.space.description import conf_folder, parse_space

FOLDER = conf_folder() / "platform"
FILES = sorted(FOLDER.glob("*.yaml"))


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


def test_a_platform_that_knows_nothing_says_so() -> None:
    platform, member = NoPlatform("none"), parse_space("digits-012-010")
    assert all(map(math.isnan, platform.rows_ms([[], []])))
    asked: list[Callable[[], object]] = [
        lambda: platform.subnet_ms(member, member.smallest),
        lambda: platform.fixed_ms(member.superspace),
        lambda: platform.fastest(member),
    ]
    for ask in asked:
        with pytest.raises(TableError, match=r"platform=none knows no latencies; limit something else \(limit.mmacs"):
            ask()


def test_measured_weights_are_as_wide_as_the_scheme_has_them() -> None:
    schemes = {path.stem: settings(path) for path in (conf_folder() / "quant").glob("*.yaml")}
    assert schemes.pop("off").weight_bits == 8
    for name, scheme in schemes.items():
        assert (scheme.name, scheme.weight_bits) == (name, quant_scheme(name).weight.bits)
    for name in ("ort_cpu", "openvino_cpu", "ssh"):
        file = OmegaConf.merge({"quant": schemes["reduced_range"], "host": "pi"}, settings(FOLDER / f"{name}.yaml"))
        assert file.weight_bits == 7


def test_files_for_phones_and_microcontrollers_are_not_packed() -> None:
    packed = {path.stem: settings(path).get("packed_channels") for path in FILES}
    assert packed.pop("adb") == packed.pop("pixel4") == packed.pop("ssh") == packed.pop("tflite_micro") == 1
    assert set(packed.values()) == {None}
