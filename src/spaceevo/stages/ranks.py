"""Processes that evaluate together: the first leads, the others serve it; torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Result = TypeVar("Result")


class Ranks:
    """This process's place among the processes of a torchrun; alone without one."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")

    @property
    def device(self) -> torch.device:
        """This process's GPU, or the CPU where there is none."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

    @contextmanager
    def leading(self, work: Callable[..., Any]) -> Iterator[None]:
        """Let the first process go on; the others do `work` on what `map` hands them until it is done, then exit.

        Raises:
            SystemExit: with code 0, in the processes that serve.
        """
        if self.rank > 0:
            while (items := self._receive(None)) is not None:
                self._gather(work, items)
            dist.destroy_process_group()
            raise SystemExit(0)
        try:
            yield
        finally:
            if self.size > 1:
                self._receive([None])
                dist.destroy_process_group()

    def map(self, work: Callable[..., Result], items: Sequence[tuple[Any, ...]]) -> Iterator[Result]:
        """Results of `work(*item)` in the items' order, as they come; each process does one of `size` at a time."""
        for start in range(0, len(items), self.size):
            part = items[start : start + self.size]
            if self.size == 1:
                yield work(*part[0])
            else:
                self._receive([part])
                yield from self._gather(work, part)

    def _receive(self, sent: list[Any] | None) -> Any:
        box = sent or [None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def _gather(self, work: Callable[..., Result], items: Sequence[tuple[Any, ...]]) -> list[Result]:
        mine = work(*items[self.rank]) if self.rank < len(items) else None
        everyones: list[Any] = [None] * self.size
        dist.all_gather_object(everyones, mine)
        return everyones[: len(items)]
