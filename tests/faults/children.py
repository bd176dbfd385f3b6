"""The program as a process of its own, soon: forked from a server that has imported what is slow to import."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

FREE_MIB = "TESTS_FREE_MIB"
"""Variable of the environment: MiB of memory that a child may take besides what it has when it starts."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.imported"])


class Child:
    """Runs the command line in a folder; what it prints, stderr too, is kept in a file.

    Args:
        words: of the command line.
        folder: where it runs.
        told: the file.
        environment: what is set besides what this process has.
    """

    def __init__(self, words: list[str], folder: Path, told: Path, environment: Mapping[str, str]) -> None:
        self.told = told
        self.process: ForkServerProcess = CONTEXT.Process(target=_main, args=(words, folder, told, dict(environment)))
        self.process.start()

    def wait(self, timeout: float = 300) -> int:
        """Return the exit code; minus the signal's number where one ended the process."""
        self.process.join(timeout)
        code = self.process.exitcode
        assert code is not None, f"after {timeout} s still at work: {self.text()[-500:]}"
        return code

    def kill(self, after_s: float = 0) -> bool:
        """End it after so long, as SIGKILL does; tell whether it was still at work."""
        self.process.join(after_s)
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.process.pid or 0, number)

    def text(self) -> str:
        """What it printed so far."""
        return self.told.read_text() if self.told.exists() else ""


def _main(words: list[str], folder: Path, told: Path, environment: dict[str, str]) -> None:
    handle = os.open(told, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    os.environ.update(environment)
    if FREE_MIB in environment:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + int(environment[FREE_MIB]) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    os.chdir(folder)
    sys.argv = ["spaceevo", *words]
    from spaceevo.__main__ import main

    main()
