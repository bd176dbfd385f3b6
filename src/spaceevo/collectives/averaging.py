"""Sums and averages over the processes of a distributed run; a process alone keeps what it has."""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_ELEMENTS = 2**23  # Gradients that travel in one message


def world() -> tuple[int, int]:
    """Tell this process's rank and the number of processes; `(0, 1)` outside a distributed run."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


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
