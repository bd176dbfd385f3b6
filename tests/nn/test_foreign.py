"""Checkpoints with foreign objects are read, those with code are refused, and nothing of either is executed."""

import argparse
import contextlib
import enum
import os
import pathlib
import random
import subprocess
import tracemalloc
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spaceevo.errors import CheckpointError
from spaceevo.nn.foreign import read_foreign

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


def tensor(found: object) -> torch.Tensor:
    assert isinstance(found, torch.Tensor)
    return found


def pickled(body: bytes, path: Path) -> Path:
    """Write a checkpoint whose pickle is this, beside a storage of 16 bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/version", "3\n")
    return path


STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
OTHERS = {
    "a class's attribute": b"\x80\x02ctorch.storage\nUntypedStorage\nN}X\x01\0\0\0xK\x01s\x86b.",
    "a function's attribute": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\0\0\0xK\x01sb.",
    "a class of torch's called": b"\x80\x02ctorch.storage\nUntypedStorage\nJ\xff\xff\xff\x7f\x85R.",
    "a class of torch's made": b"\x80\x02ctorch.storage\nUntypedStorage\nJ\xff\xff\xff\x7f\x85\x81.",
    "a registered extension": b"\x80\x02\x82\x01.",
    "a memo at a far index": b"\x80\x02}r\xff\xff\xff\xffh\x07.",
    "a text longer than the file": b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"x.",
    "bytes longer than the file": b"\x80\x05\x96" + (2**33).to_bytes(8, "little") + b"x.",
    "a frame longer than the file": b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"N.",
    "a number of 10,000 digits": b"\x80\x02}X\x05\0\0\0epochI" + b"9" * 10_000 + b"\ns.",
    "a number of a megabyte": b"\x80\x02}N\x8b" + (2**20).to_bytes(4, "little") + b"\x7f" * 2**20 + b"s.",
    "a key that takes for ever": b"\x80\x02}N\x85" + b"2\x86" * 200 + b"Ns.",
    "a tensor beyond its storage": b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n("
    + STORAGE + b"K\x03K\x02\x85K\x01\x85\x89NtRs.",
    "a tensor that repeats its storage": b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n("
    + STORAGE + b"K\0J\xff\xff\xff\x7f\x85K\0\x85\x89NtRs.",
    "a tensor of negative sizes": b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n("
    + STORAGE + b"K\0J\xff\xff\xff\xff\x85K\x01\x85\x89NtRs.",
}  # fmt: skip


@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_a_crafted_pickle_is_refused_in_a_line_and_leaves_nothing(tmp_path: Path, body: bytes) -> None:
    classes = torch.UntypedStorage, torch._utils._rebuild_tensor_v2, torch.Tensor
    before = [dict(vars(each)) for each in classes]
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="is truncated or no checkpoint") as caught:
        read_foreign(pickled(body, tmp_path / "a.pth"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6
    assert len(str(caught.value)) < 500
    assert [dict(vars(each)) for each in classes] == before


def test_a_crafted_pickle_that_fits_is_read(tmp_path: Path) -> None:
    """The other half of the test above: it fails by what is crafted, not by how the file is written."""
    body = b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE
    body += b"K\0K\x04\x85K\x01\x85\x89NtRs."
    assert torch.equal(tensor(read_foreign(pickled(body, tmp_path / "a.pth"))["w"]), torch.zeros(4))


@forms
def test_views_and_shared_storages_stay_what_they_are(tmp_path: Path, zipped: bool) -> None:
    whole = torch.arange(12.0)
    state = {
        "whole": whole,
        "part": whole[2:8].view(2, 3).T,
        "none": whole[:0],
        "one": torch.tensor(3),
        "odd": whole[::5],
    }
    state |= {"bool": torch.tensor([True, False]), "half": torch.ones(3, dtype=torch.bfloat16)}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = read_foreign(tmp_path / "a.pth")
    for name, value in state.items():
        assert torch.equal(tensor(found[name]), value)
        assert tensor(found[name]).dtype == value.dtype


@pytest.mark.parametrize("value", ["1", "0"])
def test_torchs_own_switch_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    torch.save({"state_dict": WEIGHTS, "args": Settings()}, tmp_path / "a.pth")
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", value)
    state = read_foreign(tmp_path / "a.pth")["state_dict"]
    assert isinstance(state, dict)
    assert state.keys() == WEIGHTS.keys()


@forms
def test_a_flipped_bit_is_found_or_harmless(tmp_path: Path, zipped: bool) -> None:
    """Of a zip archive every bit of the content has a sum; the older stream has none."""
    path = tmp_path / "a.pth"
    torch.save({"w": torch.arange(64.0)}, path, _use_new_zipfile_serialization=zipped)
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(60):
        position = rng.randrange(len(whole))
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << rng.randrange(8)]) + whole[position + 1 :])
        with contextlib.suppress(CheckpointError):
            found = read_foreign(path)
            assert not zipped or torch.equal(tensor(found.get("w", torch.arange(64.0))), torch.arange(64.0))


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
