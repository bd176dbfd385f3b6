"""Files that are whole or not there, their seals, and one process at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from spaceevo.artifacts import (
    StageResult,
    append_line,
    atomic_path,
    checksums,
    is_as_sealed,
    is_whole,
    read_json,
    read_sealed_json,
    seal,
    sole_worker,
    sweep,
    write_sealed_json,
    write_text,
)
from spaceevo.artifacts.files import MACHINE
from spaceevo.errors import CheckpointError


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_written_through(tmp_path: Path, exists: bool) -> None:
    target, link = tmp_path / "store" / "file", tmp_path / "link"
    if exists:
        write_text(target, "old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "store"]


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_fault_of_the_disk_names_the_file_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_text(path, "new")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_flushed_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace = os.replace

    def noted(*paths: str) -> None:
        done.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", lambda handle: done.append(Path(f"/proc/self/fd/{handle}").resolve().name))
    monkeypatch.setattr(os, "replace", noted)
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("text")
    assert done == [temporary.name, "rename", tmp_path.name]
    done.clear()
    with atomic_path(tmp_path / "file", is_cached=True) as temporary:
        temporary.write_text("text")
    assert done == [temporary.name, "rename"]


@pytest.mark.parametrize("room", [0, 3])
def test_a_line_that_a_full_disk_cuts_is_taken_back(tmp_path: Path, room: int) -> None:
    path = tmp_path / "lines"
    append_line(path, "first")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len("first\n") + room, before[1]))
    try:
        with pytest.raises(OSError, match="No space left|File too large") as caught:
            append_line(path, "second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(path)
    append_line(path, "third")
    assert path.read_text() == "first\nthird\n"


def test_a_link_that_leads_to_itself_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.symlink_to(path)
    write_text(path, "whole")
    assert path.read_text() == "whole"


def test_a_folder_in_place_of_an_output_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a")
    made = StageResult("cost", "", None, {}, outputs={"table": str(path)}, checksums=checksums([path]))
    assert not list(made.changed_files())
    path.unlink()
    path.mkdir()
    assert list(made.changed_files()) == [str(path)]


def test_what_the_dead_left_is_swept_and_what_the_living_write_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "below").mkdir()
    stays = [f".a.{MACHINE}-{os.getpid()}-0123abcd.tmp", f".a.elsewhere-{dead.pid}-0123abcd.tmp", ".a.tmp", "b.tmp"]
    left = [f".a.b.{MACHINE}-{dead.pid}-0123abcd.tmp", f"below/.c.{MACHINE}-{dead.pid}-0123abcd.tmp"]
    for name in [*stays, *left]:
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert (tmp_path / left[1]).exists()
    sweep(tmp_path, depth=1)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == set(stays)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {"a": torch.arange(100.0)}, "meta": {"space": "digits"}}, path)
    seal(path)
    return path


def test_a_sealed_archive_is_still_torchs_and_zips(sealed: Path) -> None:
    assert is_as_sealed(sealed)
    assert is_whole(sealed)
    assert torch.equal(torch.load(sealed, weights_only=True)["state_dict"]["a"], torch.arange(100.0))
    assert torch.equal(torch.load(sealed, weights_only=True, mmap=True)["state_dict"]["a"], torch.arange(100.0))
    with zipfile.ZipFile(sealed) as archive:
        assert archive.testzip() is None


def test_every_flipped_bit_of_an_archive_is_seen(sealed: Path) -> None:
    content = sealed.read_bytes()
    rng = random.Random(0)
    places = {*range(8 * (len(content) - 100), 8 * len(content)), *rng.sample(range(8 * len(content)), 500)}
    for place in places:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        sealed.write_bytes(damaged)
        assert is_as_sealed(sealed) is False, place


def test_archives_without_a_seal_are_whole_if_their_parts_are(tmp_path: Path) -> None:
    path = tmp_path / "plain.pth"
    torch.save({"a": torch.arange(1000.0)}, path)
    assert is_as_sealed(path) is None
    assert is_whole(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not is_whole(path)
    for rest in (b"", b"PK", bytes(content[:-300])):
        path.write_bytes(rest)
        assert not is_whole(path)
    assert not is_whole(tmp_path / "none")


def test_every_flipped_bit_of_a_record_is_seen(tmp_path: Path) -> None:
    path, value = tmp_path / "record.json", {"stage": "cost", "loss": 1e-05, "rows": [1, 2.5, None], "schema": 2}
    write_sealed_json(path, value)
    assert read_sealed_json(path) == value
    assert list(read_json(path)) == ["checksum", *value]
    content = path.read_bytes()
    for place in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"record\.json"):
            read_sealed_json(path)


def test_a_record_without_a_seal_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps({"stage": "cost"}, indent=2))
    assert read_sealed_json(tmp_path / "old.json") == {"stage": "cost"}


OWNER = """
import sys, time
from pathlib import Path
from spaceevo.artifacts import sole_worker
with sole_worker(Path(sys.argv[1]), print):
    print("locked", flush=True)
    time.sleep(float(sys.argv[2]))
print("open", flush=True)
"""


def owner(lock: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that has the lock for so long."""
    command = [sys.executable, "-c", OWNER, str(lock), str(seconds)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert started.stdout.readline() == "locked\n"
    return started


def test_the_second_waits_for_the_first_and_says_for_whom(tmp_path: Path) -> None:
    lock = tmp_path / "job" / ".lock"
    first = owner(lock, seconds=0.5)
    said: list[str] = []
    with first, sole_worker(lock, said.append):
        assert len(said) == 1
        assert said[0].startswith(f"{lock}: process {first.pid} on {MACHINE} (since ")
        assert said[0].endswith(") is at work; waits until it ends")
    said.clear()
    with sole_worker(lock, said.append):
        assert said == []


def test_the_lock_of_a_killed_process_is_taken_over_with_a_line(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with owner(lock, seconds=60) as killed:
        killed.kill()
    said: list[str] = []
    with sole_worker(lock, said.append):
        assert len(said) == 1
        assert f"process {killed.pid} on {MACHINE}" in said[0]
        assert said[0].endswith("was killed; goes on from what it left")


def test_a_folder_that_cannot_be_written_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("spaceevo.artifacts.locks.FileIO", refused)
    with sole_worker(tmp_path / ".lock", print):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unknown)
    said: list[str] = []
    with sole_worker(tmp_path / ".lock", said.append):
        assert "knows no locks" in said[0]
