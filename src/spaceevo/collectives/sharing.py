"""Processes that work for one: the first leads, the others serve it; torchrun starts them, on one machine or on many.

They exchange texts over a process group of their own, which is not torch's default one: each evaluates subnets of its
own, so nothing may be averaged between them. torchrun's key-value store, which anyone who reaches its port can write
to, is used by torch to find the processes and carries nothing of ours; and texts are plain, never pickles.
"""

import atexit
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from spaceevo.collectives.launcher import launched
from spaceevo.errors import LostProcessError, Stopped

Work = Callable[[str], str]  # Turns the text of an item into the text of its result
PATIENCE = timedelta(days=7)
PARTING_S = 3.0  # For others that are asked to end together with the first
_groups = count()  # Names the groups of this process; all processes make theirs in the same order


class Ranks:
    """Knows this process's place among the processes of a torchrun; it is alone without one."""

    def __init__(self) -> None:
        self.size = launched("WORLD_SIZE", 1)
        self.rank = launched("RANK", 0)
        if self.size > 1:
            store, _, _ = next(rendezvous("env://", self.rank, self.size))
            store = PrefixStore(f"spaceevo {next(_groups)}", store)
            # torch's stubs do not know what it sends and receives
            self.group: Any = dist.ProcessGroupGloo(store, self.rank, self.size, PATIENCE)

    @contextmanager
    def leading(self, work: Work) -> Iterator[None]:
        """Let the first process go on; the others do `work` on what `map` has to do until it is done, then exit.

        Where the first is asked to end it waits for nobody: its end is theirs.

        Raises:
            SystemExit: with code 0, in the processes that serve.
            LostProcessError: another process has ended before its work was done.
        """
        if self.rank > 0:
            while (item := self.receive(0)) is not None:
                self.send(0, work(item))
            raise SystemExit(0)
        try:
            yield
        except Stopped:
            raise
        except BaseException:
            with suppress(LostProcessError):  # what went wrong before is what is told
                self._dismiss()
            raise
        else:
            self._dismiss()

    def _dismiss(self) -> None:
        for rank in range(1, self.size):
            self.send(rank, None)

    def map(self, work: Work, items: Sequence[str]) -> Iterator[str]:
        """Give the result of `work` on each item, in order, as soon as it is there; whoever is free takes the next."""
        if self.size == 1:
            yield from map(work, items)
            return
        results = [Future[str]() for _ in items]
        left: SimpleQueue[int] = SimpleQueue()
        for number in range(len(items)):
            left.put(number)
        others = self._let_others_take(left, items, results)
        given = 0
        try:
            for number in _drained(left):
                results[number].set_result(work(items[number]))
                while given < len(items) and results[given].done():
                    yield results[given].result()
                    given += 1
            yield from (result.result() for result in results[given:])
        except Stopped as stopped:
            _join(others, PARTING_S)
            if any(other.is_alive() for other in others):
                atexit.register(_end_at_once, 128 + stopped.signal_number)
            raise
        except BaseException:
            list(_drained(left))  # nothing more is begun after a fault
            _join(others)
            raise
        _join(others)

    def _let_others_take(
        self, left: SimpleQueue[int], items: Sequence[str], results: Sequence[Future[str]]
    ) -> list[Thread]:
        """Start a thread for each other process, which has it do what is left until nothing is."""

        def take(rank: int) -> None:
            for number in _drained(left):
                try:
                    results[number].set_result(self._have_done(rank, items[number]))
                except Exception as error:
                    results[number].set_exception(error)

        # daemons, since an interpreter that is asked to end would wait for all others
        threads = [Thread(target=take, args=(rank,), daemon=True) for rank in range(1, self.size)]
        for thread in threads:
            thread.start()
        return threads

    def _have_done(self, rank: int, item: str) -> str:
        self.send(rank, item)
        return str(self.receive(rank))

    def send(self, rank: int, text: str | None) -> None:
        """Send a text, or that there are no more, to a process."""
        data = torch.frombuffer(bytearray(json.dumps(text).encode()), dtype=torch.uint8)
        with _connected(rank):
            self.group.send([torch.tensor([len(data)])], rank, 0).wait()
            self.group.send([data], rank, 1).wait()

    def receive(self, rank: int) -> str | None:
        """Wait for what a process sends."""
        size = torch.zeros(1, dtype=torch.int64)
        with _connected(rank):
            self.group.recv([size], rank, 0).wait()
            data = torch.empty(int(size), dtype=torch.uint8)
            self.group.recv([data], rank, 1).wait()
        text: str | None = json.loads(bytes(data.tolist()))
        return text


@contextmanager
def _connected(rank: int) -> Iterator[None]:
    """Say in words that the process at the other end is there no more."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(rank, str(error)) from error


def _end_at_once(code: int) -> None:
    """End this process: a thread that waits for another one, and wakes while Python ends, would abort it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _join(threads: Sequence[Thread], most_s: float = PATIENCE.total_seconds()) -> None:
    """Wait for threads to end, so many seconds in all at most."""
    until = time.monotonic() + most_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def _drained(queue: SimpleQueue[int]) -> Iterator[int]:
    """Take from a queue, which others take from too, until it is empty."""
    while True:
        try:
            yield queue.get_nowait()
        except Empty:
            return


def first_decides(own_answer: bool) -> bool:
    """Return the first process's answer to a question, in all processes; a process alone keeps its own."""
    ranks = Ranks() if dist.is_torchelastic_launched() else None
    if ranks is None or ranks.size == 1:
        return own_answer
    if ranks.rank > 0:
        return ranks.receive(0) == str(True)
    for rank in range(1, ranks.size):
        ranks.send(rank, str(own_answer))
    return own_answer
