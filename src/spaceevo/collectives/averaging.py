"""Who this process is among those of one run, and sums and averages over all of them; one alone keeps what it has."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from spaceevo.collectives.launcher import launched
from spaceevo.errors import ConfigError

Item = TypeVar("Item")
BUCKET_ELEMENTS = 2**23  # Gradients that travel in one message


def world() -> tuple[int, int]:
    """Tell this process's rank and the number of processes; `(0, 1)` outside a distributed run."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


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


def share(items: Sequence[Item]) -> Sequence[Item]:
    """Take this process's part: every `world_size`-th item from its rank on; all of them outside a distributed run."""
    rank, size = world()
    return items[rank::size] if size > 1 else items


@torch.no_grad()
def sum_(tensor: Tensor) -> Tensor:
    """Replace a tensor by its sum over the processes, in place; return it."""
    if world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


@torch.no_grad()
def least_(tensor: Tensor) -> Tensor:
    """Replace a tensor by the least of each element over the processes, in place; return it."""
    if world()[1] > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MIN)
    return tensor


@torch.no_grad()
def average_(tensors: Sequence[Tensor], weight: float = 1.0) -> None:
    """Replace float tensors by their mean over the processes, in place; every process counts by its `weight`."""
    if world()[1] == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten().double() for tensor in tensors]) * weight
    flat = torch.cat([flat, flat.new_tensor([weight])])
    dist.all_reduce(flat)
    _scatter(flat[:-1] / flat[-1], tensors)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes; the same parameters must have one in each."""
    size = world()[1]
    if size == 1:
        return
    buckets: list[list[Tensor]] = [[]]
    for grad in (parameter.grad for parameter in parameters if parameter.grad is not None):
        if buckets[-1] and sum(map(Tensor.numel, buckets[-1])) + grad.numel() > BUCKET_ELEMENTS:
            buckets.append([])
        buckets[-1].append(grad)
    flats = [torch.cat([grad.flatten() for grad in bucket]) for bucket in buckets if bucket]
    for work in [dist.all_reduce(flat, async_op=True) for flat in flats]:
        assert work is not None
        work.wait()
    for bucket, flat in zip(buckets, flats, strict=False):
        _scatter(flat / size, bucket)


def _scatter(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy a row of numbers back into the tensors that it was made of."""
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
