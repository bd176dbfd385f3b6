"""Several processes of one run, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist


class Processes(NamedTuple):
    """This process's number, and how many there are."""

    rank: int
    world_size: int


def is_first() -> bool:
    """Whether this is the process that writes and prints, by what its launcher says; one alone is."""
    return next((int(os.environ[key]) for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if key in os.environ), 0) == 0


@contextmanager
def process_group() -> Iterator[Processes]:
    """Join the processes that torchrun started (NCCL on GPUs, else gloo); without torchrun there is one process."""
    if "WORLD_SIZE" not in os.environ:
        yield Processes(0, 1)
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
