"""Processes that work for one: the first leads, the others serve it; torchrun starts them, on one machine or on many.

They meet in torchrun's key-value store, not in a process group: each evaluates subnets of its own, so nothing may be
averaged between them.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from spaceevo.stages.processes import own_device

Result = TypeVar("Result")
PATIENCE = timedelta(days=7)


class Ranks:
    """This process's place among the processes of a torchrun; alone without one."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.batches = 0
        if self.size > 1:
            self.store, _, _ = next(rendezvous("env://", self.rank, self.size))
            self.store.set_timeout(PATIENCE)

    @property
    def device(self) -> torch.device:
        """This process's GPU, or the CPU where there is none."""
        return own_device()

    @contextmanager
    def leading(self, work: Callable[..., Any]) -> Iterator[None]:
        """Let the first process go on; the others do `work` on what `map` has to do until it is done, then exit.

        Raises:
            SystemExit: with code 0, in the processes that serve.
        """
        if self.rank > 0:
            while (items := self._await_batch()) is not None:
                for _ in self._take(work, items):
                    pass
            self.store.set(f"left {self.rank}", "")
            raise SystemExit(0)
        try:
            yield
        finally:
            if self.size > 1:
                self._announce(None)
                self.store.wait([f"left {rank}" for rank in range(1, self.size)], PATIENCE)

    def map(self, work: Callable[..., Result], items: Sequence[tuple[Any, ...]]) -> Iterator[Result]:
        """Results of `work(*item)` in the items' order, as soon as they are there; whoever is free takes the next."""
        if self.size == 1:
            yield from (work(*item) for item in items)
            return
        self._announce(items)
        given = 0
        for _ in self._take(work, items):
            while given < len(items) and self.store.check([self._key(given)]):
                yield self._result(given)
                given += 1
        for number in range(given, len(items)):
            yield self._result(number)

    def _take(self, work: Callable[..., Any], items: Sequence[tuple[Any, ...]]) -> Iterator[int]:
        """Work on items that nobody else has taken."""
        while (number := self.store.add(f"taken {self.batches}", 1) - 1) < len(items):
            self.store.set(self._key(number), pickle.dumps(work(*items[number])))
            yield number

    def _announce(self, items: Sequence[tuple[Any, ...]] | None) -> None:
        self.batches += 1
        self.store.set(f"batch {self.batches}", pickle.dumps(items))

    def _await_batch(self) -> Any:
        self.batches += 1
        return pickle.loads(self.store.get(f"batch {self.batches}"))

    def _key(self, number: int) -> str:
        return f"result {self.batches} {number}"

    def _result(self, number: int) -> Any:
        return pickle.loads(self.store.get(self._key(number)))


def first_decides(question: str, own_answer: bool) -> bool:
    """Return the first process's answer, in all processes of a torchrun; a process alone keeps its own.

    Args:
        question: a text that is the same in all processes, and asked once.
        own_answer: what this process would answer.
    """
    if not dist.is_torchelastic_launched():
        return own_answer
    rank = int(os.environ["RANK"])
    store, _, _ = next(rendezvous("env://", rank, int(os.environ["WORLD_SIZE"])))
    if rank == 0:
        store.set(question, str(own_answer))
    answer: bytes = store.get(question)
    return answer.decode() == str(True)
