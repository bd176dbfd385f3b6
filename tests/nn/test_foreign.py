"""Checkpoints with foreign objects are read, those with code are refused, and nothing of either is executed."""

import argparse
import enum
import io
import os
import pathlib
import pickle
import subprocess
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spaceevo.errors import CheckpointError
from spaceevo.nn.foreign import _Unpickler, read_foreign

WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3), "p": nn.Parameter(torch.ones(2)), "half": torch.ones(3).half()}
forms = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "plain"])
protocols = pytest.mark.parametrize("protocol", [2, 4])


class Settings:
    """Would leave a trace, were it made anew."""

    made = 0

    def __init__(self) -> None:
        self.inner = [types.SimpleNamespace(depth=1)]

    def __setstate__(self, state: dict[str, Any]) -> None:
        Settings.made += 1


class DictSettings(dict[str, float]):
    note: str


class Mode(enum.Enum):
    FAST = 1


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@forms
@protocols
def test_foreign_objects_are_not_made(tmp_path: Path, zipped: bool, protocol: int) -> None:
    settings = DictSettings(lr=0.1)
    settings.note = "attributes too"
    args = {
        "args": Settings(),
        "namespace": argparse.Namespace(path=pathlib.PurePosixPath("a"), device=torch.device("cpu")),
        "more": [settings, Mode.FAST, np.float64(3), np.arange(3), torch.float32, {1, 2}, torch.Size([2])],
    }
    path, before = tmp_path / "a.pth", Settings.made
    torch.save(
        {"state_dict": WEIGHTS, "epoch": 7, **args},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    content = read_foreign(path)
    assert Settings.made == before
    assert content["epoch"] == 7
    state, more = content["state_dict"], content["more"]
    assert isinstance(state, dict)
    assert isinstance(more, list)
    assert all(torch.equal(state[name], value) for name, value in WEIGHTS.items())
    assert not isinstance(content["args"], Settings)
    assert not isinstance(more[1], Mode)


@forms
@protocols
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ["touch {}"], "system"),
        (eval, ["open('{}', 'w')"], "builtins.eval"),
        (exec, ["open('{}', 'w')"], "builtins.exec"),
        (open, ["{}", "w"], "io.open"),
        (subprocess.Popen, [["touch", "{}"]], "subprocess.Popen"),
        (getattr, ["{}", "upper"], "builtins.getattr"),
        (torch.hub.load, ["{}", "model"], "torch.hub.load"),
        (np.save, ["{}", 0], "numpy.save"),
        (pytest.main, ["{}"], "main"),
    ],
)
def test_code_is_refused(
    tmp_path: Path, function: Callable[..., object], arguments: list[Any], name: str, zipped: bool, protocol: int
) -> None:
    trace, path = tmp_path / "trace", tmp_path / "a.pth"
    filled = [a.format(trace) if isinstance(a, str) else a for a in arguments]
    torch.save(
        {"state_dict": WEIGHTS, "args": Call(function, *filled)},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(CheckpointError) as caught:
        read_foreign(path)
    assert f"{path} holds code" in str(caught.value)
    assert name in str(caught.value)
    assert "nothing was executed" in str(caught.value)
    assert not trace.exists()


def test_what_a_pickle_sets_on_torchs_functions_stays_with_it() -> None:
    """The opcode BUILD sets attributes on whatever stands before it, here x = 1."""
    function = torch._utils._rebuild_tensor_v2
    text = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00xK\x01sb."
    assert pickle.loads(text) is function
    assert vars(function).pop("x") == 1
    assert _Unpickler(io.BytesIO(text)).load().x == 1
    assert "x" not in vars(function)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), path)
    with pytest.raises(CheckpointError, match="holds code .a TorchScript archive."):
        read_foreign(path)


@forms
def test_truncated_files_are_named(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "a.pth"
    torch.save({"state_dict": WEIGHTS}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in (0, 3, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            read_foreign(path)
        assert f"checkpoint {path} is truncated or no checkpoint" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with pytest.raises(CheckpointError, match="does not exist"):
        read_foreign(path)
    path.write_text("no checkpoint at all")
    with pytest.raises(CheckpointError, match="is truncated or no checkpoint"):
        read_foreign(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list; expected a mapping"):
        read_foreign(path)
