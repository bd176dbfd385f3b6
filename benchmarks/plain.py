"""What the benchmarks share: LSQ+ in its plain form, operation by operation, and how time is taken."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from spaceevo.nn import layers
from spaceevo.quant import quantizer


def plain_activation(
    x: Tensor,
    scale: Tensor,
    offset: Tensor,
    bits: int = 8,
    *,
    integer_zero_point: bool = False,
    scale_gradients: bool = True,
) -> Tensor:
    """LSQ+ of an activation in differentiable operations, as the published code has it."""
    high = 2**bits - 1
    factor = (x[0].numel() * high) ** -0.5 if scale_gradients else 1.0
    scale, offset = _scaled(scale.abs(), factor), _scaled(offset, factor)
    if integer_zero_point:
        zero = _straight_through(torch.round(-offset / scale), -offset / scale).clamp(0, high)
        ratio = x / scale
        level = _clip(_straight_through(torch.round(ratio), ratio) + zero, 0, high)
        return (level - zero) * scale
    ratio = _clip((x - offset) / scale, 0, high)
    return _straight_through(torch.round(ratio), ratio) * scale + offset


def plain_weight(
    weight: Tensor, scale: Tensor, bits: int = 8, *, narrow: bool = False, scale_gradients: bool = True
) -> Tensor:
    """LSQ+ of a weight in differentiable operations."""
    high = 2 ** (bits - 1) - 1
    scale = _scaled(scale.abs(), (weight.numel() * high) ** -0.5 if scale_gradients else 1.0)
    ratio = _clip(weight / scale, -high if narrow else -high - 1, high)
    return _straight_through(torch.round(ratio), ratio) * scale


def _scaled(value: Tensor, factor: float) -> Tensor:
    return (value - value * factor).detach() + value * factor


def _straight_through(rounded: Tensor, exact: Tensor) -> Tensor:
    return (rounded - exact).detach() + exact


def _clip(x: Tensor, low: int, high: int) -> Tensor:
    inside = (x > low) & (x < high)
    return torch.where(inside, x, x.clamp(low, high).detach())


def plain_depthwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Torch's own convolution, forward and backward."""
    return functional.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1])


@contextmanager
def plain_forms() -> Iterator[None]:
    """Quantisers and depthwise convolutions in their plain form."""
    with (
        patch.object(quantizer, "lsq_plus_activation", plain_activation),
        patch.object(quantizer, "lsq_plus_weight", plain_weight),
        patch.object(layers, "depthwise_conv2d", plain_depthwise),
    ):
        yield


def clock() -> float:
    """Seconds: on a GPU of the wall, its work waited for; else of the processor, which other programs disturb least.

    With several threads the processor's seconds of all of them are added up.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds_of(form: Callable[[], object], timer: Callable[[], float] = clock) -> float:
    """How long a call takes, by `timer`."""
    started = timer()
    form()
    return timer() - started


def alternate(
    forms: dict[str, Callable[[], object]], rounds: int, timer: Callable[[], float] = clock
) -> dict[str, float]:
    """Least seconds of each form, the forms taking turns; one turn each to warm up."""
    for form in forms.values():
        form()
    turns = [{name: seconds_of(form, timer) for name, form in forms.items()} for _ in range(rounds)]
    return {name: min(turn[name] for turn in turns) for name in forms}


def mean(values: list[float]) -> float:
    """Arithmetic mean."""
    return statistics.fmean(values)


def peak_mib() -> float:
    """Most memory this process has held, in MiB: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine() -> str:
    """What a figure was measured on; `OMP_NUM_THREADS` decides the threads."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return f"processor seconds, {capability}, {threads} thread(s), torch {torch.__version__}"
