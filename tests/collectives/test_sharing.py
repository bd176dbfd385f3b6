"""Several processes give the results of one, in order, and end."""

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from spaceevo.collectives.averaging import own_device, process_group
from spaceevo.collectives.launcher import is_first
from spaceevo.collectives.sharing import Ranks, first_decides
from spaceevo.errors import ConfigError

PROGRAM = """
import json, os, sys, time
from pathlib import Path
from torch.distributed.rendezvous import rendezvous
from spaceevo.collectives.sharing import Ranks, first_decides

def work(item):
    number, letter = json.loads(item)
    time.sleep(0.02 * (number % 3))
    with open(Path(sys.argv[1]) / f"rank{os.environ['RANK']}", "a") as file:
        file.write(f"{number} ")
    while len(list(Path(sys.argv[1]).glob("rank*"))) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.02)  # a process that starts late gets its share too
    return f"{number}{letter}"

rank = os.environ["RANK"]
store, _, _ = next(rendezvous("env://", int(rank), int(os.environ["WORLD_SIZE"])))
for batch in range(4):  # as another user of the machine could
    store.set(f"batch {batch}", json.dumps(["[0, \\"forged\\"]"]))
    for number in range(10):
        store.set(f"result {batch} {number}", "forged")
store.set("skip?", "False")
(Path(sys.argv[1]) / f"answer{rank}").write_text(str(first_decides(rank == "0")))
while not all((Path(sys.argv[1]) / f"answer{other}").exists() for other in range(int(os.environ["WORLD_SIZE"]))):
    time.sleep(0.01)  # nobody takes all the work before the others are there
ranks = Ranks()
with ranks.leading(work):
    for start in (0, 10):
        items = [json.dumps([number, "ab"[number % 2]]) for number in range(start, start + 10)]
        print(*ranks.map(work, items))
    print(*ranks.map(work, []))
print("led by", ranks.rank)
"""


def test_alone_it_is_a_map() -> None:
    ranks = Ranks()
    with ranks.leading(str.upper):
        assert list(ranks.map(str.upper, ["a", "b"])) == ["A", "B"]
    assert own_device() == (torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))


def check_shares(told: str, folder: Path) -> None:
    """What two processes of `PROGRAM` leave: the first has all results in order, and each did some of the work."""
    expected = [" ".join(f"{n}{'ab'[n % 2]}" for n in range(start, start + 10)) for start in (0, 10)]
    assert [line for line in told.splitlines() if line] == [*expected, "led by 0"]
    shares = [(folder / f"rank{rank}").read_text().split() for rank in range(2)]
    assert sorted(int(number) for share in shares for number in share) == list(range(20))
    assert all(shares)
    assert [(folder / f"answer{rank}").read_text() for rank in range(2)] == ["True"] * 2


def start(folder: Path, environment: dict[str, str]) -> None:
    """Run `PROGRAM` in this process, which was forked for it."""
    os.dup2(os.open(folder / f"told{environment['RANK']}", os.O_CREAT | os.O_WRONLY), 1)
    os.environ.update(environment)
    sys.argv = ["program", str(folder)]
    with os.fdopen(os.dup(1), "w") as sys.stdout:
        exec(PROGRAM, {"__name__": "__main__"})


def test_processes_share_the_work(tmp_path: Path) -> None:
    given = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    given["TORCHELASTIC_RUN_ID"] = "by this name torch knows that torchrun started it"
    forks = multiprocessing.get_context("fork")
    processes = [forks.Process(target=start, args=(tmp_path, {**given, "RANK": str(rank)})) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    check_shares((tmp_path / "told0").read_text(), tmp_path)


@pytest.mark.slow
def test_processes_of_torchrun_share_the_work(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(program)]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    check_shares(done.stdout, tmp_path)


def test_a_process_alone_decides_for_itself() -> None:
    assert first_decides(True)
    assert not first_decides(False)


def test_the_first_process_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(variable, raising=False)
    assert is_first()
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert not is_first()
    monkeypatch.setenv("RANK", "0")
    assert is_first()
    monkeypatch.setenv("RANK", "abc")
    with pytest.raises(ConfigError, match=r"^environment variable RANK = 'abc'; allowed: a whole number from 0 on; un"):
        is_first()
    with pytest.raises(ConfigError, match="RANK = 'abc'"):
        Ranks()


def test_a_process_has_a_gpu_of_its_own_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert own_device() == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(
        ConfigError, match=r"^torchrun started 3 processes on a machine with 2 GPUs; allowed: one a GPU"
    ):
        own_device()


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda", "nccl")])
def test_processes_join_by_where_their_networks_run(monkeypatch: pytest.MonkeyPatch, device: str, backend: str) -> None:
    """A GPU that is there and not wanted does not count."""
    joined: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dist, "init_process_group", joined.append)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with process_group(torch.device(device)) as (rank, world_size):
        assert (rank, world_size) == (0, 2)
    assert joined == [backend]


ENDED = """
import os, signal, sys, time
from pathlib import Path
from spaceevo.__main__ import stoppable
from spaceevo.collectives.sharing import Ranks
from spaceevo.errors import LostProcessError, Stopped

folder, rank, doomed = Path(sys.argv[1]), os.environ["RANK"], sys.argv[2].split()

def work(item):
    (folder / f"busy{rank}").write_text(str(os.getpid()))
    while not all((folder / f"busy{other}").exists() for other in "01"):
        time.sleep(0.01)
    if rank == "0":
        for other in doomed:
            os.kill(int((folder / f"busy{other}").read_text()), int(sys.argv[3]))
    time.sleep(20 if rank in doomed or "0" in doomed else 0.1)
    return item

with stoppable():
    try:
        ranks = Ranks()
        with ranks.leading(work):
            list(ranks.map(work, ["a", "b"]))
        ended = "well"
    except Stopped as stopped:
        ended = f"signal {stopped.signal_number}"
    except LostProcessError as error:
        ended = f"lost {str(error)[:9]}"
(folder / f"ended{rank}").write_text(f"{time.monotonic()} {ended}")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("doomed", "number", "ends"),
    [
        ("1 0", 15, {"0": "signal 15", "1": "signal 15"}),
        ("0", 15, {"0": "signal 15", "1": "lost process 0"}),
        ("1", 9, {"0": "lost process 1"}),
    ],
)
def test_nobody_waits_for_a_process_that_was_ended(
    tmp_path: Path, doomed: str, number: int, ends: dict[str, str]
) -> None:
    program = tmp_path / "program.py"
    program.write_text(ENDED)
    given = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), str(tmp_path), doomed, str(number)], env={**given, "RANK": rank}
        )
        for rank in "01"
    ]
    processes[0].wait(300)
    assert (tmp_path / "ended0").read_text().split(" ", 1)[1] == ends["0"]
    waited = time.monotonic() - float((tmp_path / "ended0").read_text().split()[0])
    assert waited < 15  # nor does the interpreter
    for process in processes:
        process.wait(300)
    found = {rank: (tmp_path / f"ended{rank}").read_text().split(" ", 1)[1] for rank in ends}
    assert found == ends
    assert processes[0].returncode in (0, 143)  # and not aborted by a thread of its own


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
