"""Trainers: the precisions and processes a machine has, and how faults are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spaceevo.errors import ConfigError
from spaceevo.lit.trainer import make_trainer


def trainer_precision(folder: Path, **settings: Any) -> str:
    return str(make_trainer(folder=folder, epochs=1, **{"accelerator": "cpu", **settings}).precision)


@pytest.mark.parametrize(("asked", "given"), [("32-true", "32-true"), ("bf16-mixed", "bf16-mixed"), (32, "32-true")])
def test_precisions_that_a_processor_has(tmp_path: Path, asked: str | int, given: str) -> None:
    assert trainer_precision(tmp_path, precision=asked) == given


@pytest.mark.parametrize("precision", ["16-mixed", "16", "16-true", "bf16-true", "64-true"])
def test_other_precisions_are_refused(tmp_path: Path, precision: str) -> None:
    expected = (
        rf"^trainer\.precision = {precision} on device cpu; allowed: 32-true, bf16-mixed; set trainer\.precision$"
    )
    with pytest.raises(ConfigError, match=expected):
        trainer_precision(tmp_path, precision=precision)


def test_processes_that_would_each_train_alone_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"^torchrun started 2 processes, the trainer is set for 1; add trainer=ddp"):
        trainer_precision(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"accelerator": "cuda", "devices": 99},
        {"accelerator": "gpu", "devices": torch.cuda.device_count() + 1},
        {"accelerator": "abacus"},
        {"precision": "12-true"},
        {"strategy": "alone"},
    ],
)
def test_what_lightning_refuses_is_one_line(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^trainer: .*; set trainer\.\*$"):
        trainer_precision(tmp_path, **settings)


def test_a_misspelt_setting_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.bench_mark is not a setting; allowed: benchmark$"):
        trainer_precision(tmp_path, bench_mark=True)


def test_hundreds_of_processes_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.devices = 999; allowed: 1…\d+ on this machine$"):
        trainer_precision(tmp_path, devices=999)
