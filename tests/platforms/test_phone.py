"""A fake `adb` on PATH stands for the phone."""

from pathlib import Path

import pytest

import spaceevo
from spaceevo.errors import ConfigError
from spaceevo.platforms.phone import AndroidPhone, Phone
from spaceevo.runtimes.timing import Timing

FAKE = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  devices) printf 'List of devices attached\\n{devices}\\n' ;;
  *getprop*model) echo 'Pixel 4' ;;
  *getprop*abi) echo arm64-v8a ;;
  *push*) cp "$4" {folder}/pushed.tflite ;;
  *benchmark_model*) {benchmark} ;;
esac
"""
# The first line of figures is the warm-up's. A file's size stands for its latency.
RUN = """size=$(wc -c < {folder}/pushed.tflite)
echo "count=3 first=9 curr=9 min=1 max=9 avg=2 std=0"
echo "count=50 first=$size curr=$size min=$size max=99999 avg=$((size + size / 10)) std=3" ;;"""


@pytest.fixture
def fake_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `adb` list one phone; returns the log of its calls."""
    write_adb(tmp_path, monkeypatch, "one\\tdevice")
    return tmp_path / "calls"


def write_adb(folder: Path, monkeypatch: pytest.MonkeyPatch, devices: str, benchmark: str = "") -> None:
    commands = benchmark or RUN.format(folder=folder)
    text = FAKE.format(log=folder / "calls", devices=devices, folder=folder, benchmark=commands.removesuffix(";;"))
    (folder / "adb").write_text(text)
    (folder / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_model_is_pushed_and_the_least_of_the_runs_counts(tmp_path: Path, fake_adb: Path) -> None:
    phone = Phone(None, "/data/tmp", "/data/benchmark_model", taskset="80")
    assert phone.serial == "one"
    assert phone.shell("getprop", "ro.product.model") == "Pixel 4\n"
    assert phone.time(b"x" * 2000, runs=50) == Timing(2.0, 1.1)
    assert (tmp_path / "pushed.tflite").read_bytes() == b"x" * 2000
    push, run = fake_adb.read_text().splitlines()[-2:]
    assert push.startswith("-s one push ")
    assert push.endswith(" /data/tmp/spaceevo.tflite")
    assert run == (
        "-s one shell taskset 80 /data/benchmark_model --graph=/data/tmp/spaceevo.tflite "
        "--num_threads=1 --num_runs=50 --warmup_runs=3"
    )


def test_adb_absent_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs the program adb on PATH"):
        Phone(None, "/data", "/data/benchmark_model")


@pytest.mark.parametrize(
    ("devices", "serial", "message"),
    [
        ("", None, r"adb finds 0 usable phones, not one; it lists: none"),
        ("one\\tunauthorized", None, r"0 usable phones, not one; it lists: one \(unauthorized\)"),
        ("one\\tdevice\\ntwo\\tdevice", None, r"2 usable phones, not one; it lists: one \(device\), two \(device\)"),
        ("one\\tdevice", "three", r"platform\.serial = three is not a phone that adb can use"),
    ],
)
def test_no_phone_or_several_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: str, serial: str | None, message: str
) -> None:
    write_adb(tmp_path, monkeypatch, devices)
    with pytest.raises(ConfigError, match=message):
        Phone(serial, "/data", "/data/benchmark_model")


def test_a_phone_without_the_program_says_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_adb(tmp_path, monkeypatch, "one\\tdevice", "echo 'inaccessible or not found'; exit 127")
    phone = Phone(None, "/data", "/data/benchmark_model")
    with pytest.raises(ConfigError, match=r"benchmark_model .* failed: inaccessible or not found"):
        phone.time(b"x", runs=1)
    write_adb(tmp_path, monkeypatch, "one\\tdevice", "echo 'Failed to load graph'")
    with pytest.raises(ConfigError, match=r"printed no timings: Failed to load graph"):
        phone.time(b"x", runs=1)


def test_the_platform_measures_on_the_phone_and_keeps_it(tmp_path: Path, fake_adb: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (extra tflite)")

    def platform() -> AndroidPhone:
        return AndroidPhone("adb", "digits", str(tmp_path / "cache"), "/data/benchmark_model", "/data/tmp")

    member = spaceevo.parse_space("digits-012-000")
    first = platform()
    assert first.machine == "Pixel 4 one"
    latency = first.subnet_ms(member, member.smallest)
    assert latency > 0
    assert first.predictor.table.provenance["instructions"] == "arm64-v8a"
    calls = len(fake_adb.read_text().splitlines())
    again = platform()
    assert again.subnet_ms(member, member.smallest) == latency
    assert len(fake_adb.read_text().splitlines()) == calls + 3  # devices and two properties: nothing is measured twice
