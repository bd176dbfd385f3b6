"""The program's entry: what it imports, and how it ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spaceevo.__main__ import main
from spaceevo.artifacts import StageResult
from spaceevo.errors import ConfigError, Stopped
from spaceevo.jobs import runner
from spaceevo.jobs.command_line import _task
from spaceevo.latency.table import LatencyTable
from spaceevo.space.description import parse_space
from spaceevo.space.placement import block_key, subnet_blocks
from tests.jobs.conftest import defaults

COST = ("+stage=cost", "superspace=digits", "space=digits-012-010")
PREDICT = ("+stage=predict_latency", *COST[1:], "subnet=[max,min]", "platform=vnni", "platform.table=table.json")
LIGHT = [(), ("+stage=supernet", "--help"), COST, PREDICT]
IMPORTED = f"""
import sys
from contextlib import suppress
from spaceevo.__main__ import main
heavy = {{"torch", "pytorch_lightning", "torchvision", "onnx", "sklearn", "pandas", "matplotlib", "scipy"}}
for words in {LIGHT}:
    sys.argv = ["spaceevo", *words]
    with suppress(SystemExit):
        main()
    assert not heavy & set(sys.modules), (words, heavy & set(sys.modules))
"""


def test_what_builds_no_network_starts_without_torch(tmp_path: Path) -> None:
    member = parse_space("digits-012-010")
    blocks = [block for spec in (member.largest, member.smallest) for block in subnet_blocks(member, spec)]
    LatencyTable({block_key(*block): 1.0 for block in blocks}).save(tmp_path / "table.json")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    runs = tmp_path / "runs/digits"
    assert {path.parent.name for path in runs.rglob("result.json")} == {"cost", "predict_latency"}


@pytest.mark.parametrize("words", [(), COST], ids=["list of stages", "cost"])
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


def ended(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says at its end, which must be one line."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr(sys, "argv", ["spaceevo", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    line, code = capsys.readouterr().err, caught.value.code
    if isinstance(code, str):  # which Python writes, and exits with 1
        line += f"{code}\n"
    else:
        assert code == 1
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert len(line) < 500
    return line


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ({"RANK": "1"}, "RANK = 1, and WORLD_SIZE is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK = 2, and WORLD_SIZE is 2"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK = 1, and WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "0"}, "RANK = 0, and WORLD_SIZE is 0"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "WORLD_SIZE = 2, and MASTER_ADDR is not set"),
    ],
)
def test_what_an_earlier_launch_left_is_refused(
    left: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert told in ended(COST, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("platform=null", "platform = null; allowed: adb"),
        ("recipe=5", "recipe = 5; allowed: digits"),
        ("trainer=true", "trainer = true; allowed: ddp"),
        ("+stage=nothing", "nothing"),
        ("max_epoch=3", "max_epoch"),
        ("space=[012_010,000_000]", 'space = ["012_010", "000_000"]; allowed: a text'),
        (f"+superspace.input_channels={'9' * 5000}", "input_channels = "),
        ("paths.checkpoints=null", "paths.checkpoints = None"),
        ("stage.job=foo", "stage.job = 'foo'; allowed: "),
    ],
)
def test_what_no_job_takes_is_one_line(
    word: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in ended((*COST, word), monkeypatch, capsys)


def test_what_was_typed_stays_in_one_line_without_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("teacher=res\nnet", "foo=\x1b[31mred"):
        assert ended((*COST, word), monkeypatch, capsys)[:-1].isprintable()


def ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: Callable[[], object]) -> object:
    """The exit code of a command line whose task does this."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr(sys, "argv", ["spaceevo", "+stage=cost", "space=012_010"])
    monkeypatch.setattr("spaceevo.jobs.command_line._task", fault)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as caught:
        main()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    return caught.value.code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_one_line_that_says_what_is_kept_and_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        except Stopped as stopped:
            stopped.kept.append("half of it")
            raise

    assert ends(monkeypatch, tmp_path, work) == code
    again = "python -m spaceevo +stage=cost space=012_010"
    name = signal.Signals(number).name
    assert capsys.readouterr().err == f"stopped by {name}; kept: half of it; goes on with: {again}\n"


SIGNALLED = """
import os, sys
from spaceevo.__main__ import main

class Sender:
    def find_spec(self, name, path, target=None):
        if name == "hydra":
            import numpy
        if name == "numpy.lib._arraysetops_impl":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), number)

number = int(sys.argv.pop())
sys.meta_path.insert(0, Sender())
try:
    main()
finally:  # of a package of which half is there, Python makes another whose parts do not know of each other
    import numpy
    numpy.linalg
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_program_is_still_imported_is_one_line_too(number: int, code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SIGNALLED, "+stage=cost", str(int(number))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    name = signal.Signals(number).name
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"stopped by {name}; kept: nothing was begun; goes on with: python -m spaceevo +stage=cost\n"


def test_a_forked_process_ends_by_a_signal_as_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def work() -> None:
        listening, ready = os.pipe()  # a signal that comes before the child runs Python code is lost
        child = os.fork()
        if child == 0:
            os.write(ready, b".")
            time.sleep(60)
            os._exit(3)
        os.read(listening, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status))

    assert ends(monkeypatch, tmp_path, work) == -signal.SIGTERM


FULL = OSError(errno.ENOSPC, "No space left on device", "/somewhere/runs/a.json")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FULL, "error: /somewhere/runs/a.json: No space left on device ("),
        (OSError(errno.EROFS, "Read-only file system", "/x/y"), "error: /x/y: Read-only file system; "),
        (MemoryError(), "error: memory is full (no more can be had); "),
        (RuntimeError("could not create a primitive"), "error: memory is full (could not create a primitive); "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "error: memory is full (Default"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "error: DataLoader worker (pid 7) "),
        (ConfigError("a" * 10_000 + "; set it"), f"error: {'a' * 300}"),
    ],
)
def test_faults_of_the_machine_are_one_line_of_a_sane_length(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception, told: str
) -> None:
    def work() -> None:
        raise error

    assert ends(monkeypatch, tmp_path, work) == 1
    line = capsys.readouterr().err
    assert line.startswith(told)
    assert (line.count("\n"), len(line) < 500) == (1, True)
    assert "same command goes on" in line or "set " in line


@pytest.mark.parametrize("job", ["block_kd", "finetune", "supernet", "teacher"])
def test_a_job_that_trains_hands_one_number_to_sweepers(monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    figures = {runner.job_type(defaults(job)).main_figure: 0.5, "space": "digits-012-010"}
    monkeypatch.setattr(runner, "run", lambda config: StageResult(job, "", None, figures))
    assert _task.__wrapped__(defaults(job)) == 0.5


def test_a_fault_of_the_program_is_shown_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def work() -> None:
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        ends(monkeypatch, tmp_path, work)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--bogus",), "error: unrecognized arguments: --bogus; "),
        (("--cfg", "jobs"), "error: argument --cfg/-c: invalid choice: 'jobs' (choose from 'job', 'hydra', 'all'); "),
    ],
)
def test_options_that_hydra_does_not_know(
    words: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(words, monkeypatch, capsys).startswith(told)
