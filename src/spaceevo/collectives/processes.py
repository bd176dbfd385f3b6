"""Who this process is among those of one run, by what its launcher (torchrun, Slurm) says."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from spaceevo.collectives.averaging import world
from spaceevo.collectives.launcher import launched
from spaceevo.errors import ConfigError


def own_device() -> torch.device:
    """Choose this process's GPU, by its number on this machine; the CPU where there is no GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    started = launched("LOCAL_WORLD_SIZE", 1)
    gpus = torch.cuda.device_count()
    if started > gpus:
        raise ConfigError(
            f"torchrun started {started} processes on a machine with {gpus} GPUs; allowed: one a GPU; "
            f"set --nproc-per-node {gpus}, or CUDA_VISIBLE_DEVICES= for processes without a GPU"
        )
    return torch.device("cuda", launched("LOCAL_RANK", 0))


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int]]:
    """Join the processes that torchrun started, NCCL on GPUs, else gloo; without torchrun there is one.

    Gives this process's rank and the number of processes.
    """
    if "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield world()
    finally:
        dist.destroy_process_group()
