"""The program's entry: what it imports, how it ends, and subnets as they are typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spaceevo.__main__ import _override, main

TEXT = "d1#2_k3#3#5_w16#24#24_e0#3.0#6.0_r160"
COST = ("+stage=cost", "superspace=digits", "space=digits-012-010")
IMPORTED = """
import sys
from spaceevo.__main__ import main
sys.argv = ["spaceevo", *sys.argv[1:]]
main()
heavy = {"torch", "pytorch_lightning", "torchvision", "onnx", "sklearn", "pandas", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    ("typed", "passed_on"),
    [
        (f"subnet={TEXT}", f"subnet='{TEXT}'"),
        (f"subnet=[{TEXT},max, d1_k3_w8_e0_r32]", f"subnet=['{TEXT}',max, 'd1_k3_w8_e0_r32']"),
        (f"subnet={TEXT},{TEXT}", f"subnet='{TEXT}','{TEXT}'"),
        (f"subnet='{TEXT}'", f"subnet='{TEXT}'"),
        (f'subnet=["{TEXT}"]', f'subnet=["{TEXT}"]'),
        ("subnet=[SEQnet@vnni-A0,min]", "subnet=[SEQnet@vnni-A0,min]"),
        ("space=digits-012-010", "space=digits-012-010"),
        ("space=111111_000000", "space='111111_000000'"),
        ("space=[111111_000000,mobilew-122222-155400]", "space=['111111_000000',mobilew-122222-155400]"),
        ("space=012_010,000_000", "space='012_010','000_000'"),
        ("space='012_010'", "space='012_010'"),
        ("space=digits-012_010-align1", "space=digits-012_010-align1"),
        ("+stage=cost", "+stage=cost"),
    ],
)
def test_encodings_may_be_typed_as_they_are_printed(typed: str, passed_on: str) -> None:
    assert _override(typed) == passed_on


@pytest.mark.parametrize("words", [(), COST], ids=["list of stages", "cost"])
def test_what_builds_no_network_starts_without_torch(words: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-c", IMPORTED, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [(), ("--help",), COST], ids=["list of stages", "help", "cost"])
def test_a_reader_that_closes_early_is_no_fault(words: tuple[str, ...], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "spaceevo", *words]
    done = subprocess.run(
        command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    os.close(writing)
    assert done.stderr == ""


@pytest.mark.parametrize("job", ["cost", "teacher"])
def test_a_rank_that_is_no_number_is_one_line(
    job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "abc")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr(sys, "argv", ["spaceevo", f"+stage={job}", *COST[1:]])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    allowed = "allowed: a whole number from 0 on; unset it, or use torchrun"
    assert capsys.readouterr().err == f"error: environment variable RANK = 'abc'; {allowed}\n"
