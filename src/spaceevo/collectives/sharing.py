"""Processes that work for one: the first leads, the others serve it; torchrun starts them, on one machine or on many.

They meet in torchrun's key-value store, not in a process group: each evaluates subnets of its own, so nothing may be
averaged between them. Only text crosses the store; what it says is up to those who share their work.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from spaceevo.collectives.launcher import launched

Work = Callable[[str], str]  # Turns the text of an item into the text of its result
PATIENCE = timedelta(days=7)


class Ranks:
    """Knows this process's place among the processes of a torchrun; it is alone without one."""

    def __init__(self) -> None:
        self.size = launched("WORLD_SIZE", 1)
        self.rank = launched("RANK", 0)
        self.batches = 0
        if self.size > 1:
            self.store, _, _ = next(rendezvous("env://", self.rank, self.size))
            self.store.set_timeout(PATIENCE)

    @contextmanager
    def leading(self, work: Work) -> Iterator[None]:
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

    def map(self, work: Work, items: Sequence[str]) -> Iterator[str]:
        """Give the result of `work` on each item, in order, as soon as it is there; whoever is free takes the next."""
        if self.size == 1:
            yield from map(work, items)
            return
        self._announce(items)
        given = 0
        for _ in self._take(work, items):
            while given < len(items) and self.store.check([self._key(given)]):
                yield self._result(given)
                given += 1
        yield from map(self._result, range(given, len(items)))

    def _take(self, work: Work, items: Sequence[str]) -> Iterator[int]:
        """Work on items that nobody else has taken."""
        while (number := self.store.add(f"taken {self.batches}", 1) - 1) < len(items):
            self.store.set(self._key(number), work(items[number]))
            yield number

    def _announce(self, items: Sequence[str] | None) -> None:
        self.batches += 1
        self.store.set(f"batch {self.batches}", json.dumps(items))

    def _await_batch(self) -> list[str] | None:
        self.batches += 1
        items: list[str] | None = json.loads(self.store.get(f"batch {self.batches}"))
        return items

    def _key(self, number: int) -> str:
        return f"result {self.batches} {number}"

    def _result(self, number: int) -> str:
        result: bytes = self.store.get(self._key(number))
        return result.decode()


def first_decides(question: str, own_answer: bool) -> bool:
    """Return the first process's answer to a question (asked once), in all processes; a process alone keeps its own."""
    ranks = Ranks() if dist.is_torchelastic_launched() else None
    if ranks is None or ranks.size == 1:
        return own_answer
    if ranks.rank == 0:
        ranks.store.set(question, str(own_answer))
    return bool(ranks.store.get(question) == str(True).encode())
