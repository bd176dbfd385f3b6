"""What stands in a file's place and is none, and files to which something was added."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spaceevo.artifacts import is_whole, read_json, read_yaml, sole_worker
from spaceevo.artifacts.seals import seal
from spaceevo.errors import CheckpointError, ConfigError, SpaceEvoError
from spaceevo.lit.content import file_digests
from spaceevo.lit.tars import tar_files
from spaceevo.nn.loading import read_checkpoint
from spaceevo.quant.program_file import load_program
from spaceevo.search.lut import read_lut_file
from spaceevo.space.listing import read_list


def test_a_lock_that_is_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    precious, lock = tmp_path / "precious", tmp_path / ".lock"
    precious.write_text("kept")
    lock.symlink_to(precious)
    with pytest.raises(CheckpointError, match=r"\.lock is a link or no file"), sole_worker(lock, print):
        pytest.fail("it was locked")
    assert precious.read_text() == "kept"


def test_a_lock_that_is_a_pipe_is_told_of(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(CheckpointError, match="remove it"), sole_worker(tmp_path / ".lock", print):
        pytest.fail("it was locked")


@pytest.mark.parametrize("read", [read_yaml, read_json])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_has_no_end_is_not_read(tmp_path: Path, read: Callable[[Path], object], kind: str) -> None:
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises((ConfigError, CheckpointError), match="it is no regular file"):
        read(path)


READ: dict[str, Callable[[Path], object]] = {
    "list": read_list,
    "table": read_lut_file,
    "program": load_program,
    "checkpoint": lambda path: read_checkpoint(path, "it"),
    "images": lambda path: file_digests([path]),
    "tar": tar_files,
}


@pytest.mark.parametrize("read", READ.values(), ids=READ)
def test_a_pipe_among_what_users_name_is_told_of(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "file")
    with pytest.raises((SpaceEvoError, OSError), match="no regular file|is no file|does not exist"):
        read(tmp_path / "file")


@pytest.mark.parametrize("text", ["name: a\nb: {c: 1, c: 2}\n", "name: a\nname: b\n"])
def test_a_key_given_twice_is_told_with_its_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"\(line 2: (c|name) is given twice\)"):
        read_yaml(tmp_path / "space.yaml")


@pytest.mark.parametrize("added", [b"x", b"x" * 2000, b"x" * 60_000])
def test_a_sealed_archive_that_more_was_added_to_is_not_whole(tmp_path: Path, added: bytes) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.arange(1000.0)}, path)
    seal(path)
    assert is_whole(path)
    with path.open("ab") as file:
        file.write(added)
    assert not is_whole(path)
