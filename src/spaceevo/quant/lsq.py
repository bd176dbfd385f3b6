"""LSQ+ fake quantisation as pure functions (Bhalgat et al. 2020, arXiv 2004.09576).

`quantize` and `gradients` are the definition. On processors a compiled library (`native.py`) does the same in one pass
over memory each, to the last bit; on GPUs `torch.compile` fuses the definition itself.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spaceevo.quant.native import CGrid, Kernels, kernels

HALVES = (torch.bfloat16, torch.float16)


class Grid(NamedTuple):
    """Holds the integers `low … high`; `integer` says that offsets are rounded to a zero point among them."""

    low: int
    high: int
    integer: bool


def quantize(x: Tensor, scale: Tensor, offset: Tensor, grid: Grid) -> Tensor:
    """Compute `round(clip((x − offset)/scale, low, high))·scale + offset`, halves to even.

    With an integer zero point, z = round(−offset/scale) takes the offset's place:
    `(clip(round(x/scale) + z, low, high) − z)·scale`, what integer runtimes compute. Half precision is widened for the
    arithmetic.
    """
    wide = x.float() if x.dtype in HALVES else x
    if grid.integer:
        zero = zero_point(scale, offset, grid)
        y = (wide / scale).round_().add_(zero).clamp_(grid.low, grid.high).sub_(zero).mul_(scale)
    else:
        y = ((wide - offset) / scale).clamp_(grid.low, grid.high).round_().mul_(scale).add_(offset)
    return y.to(x.dtype)


def zero_point(scale: Tensor, offset: Tensor, grid: Grid) -> Tensor:
    """Compute the integer that stands for 0."""
    return torch.round(-offset / scale).clamp(grid.low, grid.high)


def gradients(x: Tensor, grad: Tensor, scale: Tensor, offset: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Compute straight-through gradients of `x`, the scale and the offset, of the latter two before their scaling.

    The clip passes gradient strictly inside its bounds only. With an integer zero point the gradients are the same,
    with straight-through rounding of it.
    """
    wide, upstream = (t.float() if t.dtype in HALVES else t for t in (x, grad))
    if grid.integer:
        zero = zero_point(scale, offset, grid)
        ratio = wide / scale
        value, level = ratio + zero, ratio.round().add_(zero)
    else:
        value = (wide - offset) / scale
        level = value.round()
    inside = (value > grid.low) & (value < grid.high)
    passed = upstream * inside
    grad_scale = (upstream * (level.clamp_(grid.low, grid.high) - value * inside)).sum()
    return passed.to(grad.dtype), grad_scale, (upstream - passed).sum()


class _FakeQuantize(torch.autograd.Function):
    """`quantize` with `gradients`; keeps its input and the two scalars for backward, nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, offset: Tensor, grid: Grid, gradient_scale: float) -> Tensor:
        x = _dense(x)
        ctx.save_for_backward(x, scale, offset)
        ctx.grid = grid
        ctx.gradient_scale = gradient_scale
        if (native := _native(x)) is not None:
            return native.forward(x, _c_grid(scale, offset, grid), grid.integer)
        function = _fused()[0] if x.is_cuda else quantize
        return function(x, scale.abs(), offset, grid)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, offset = ctx.saved_tensors
        if (native := _native(x)) is not None:
            like_x = grad if grad.stride() == x.stride() and grad.dtype == x.dtype else torch.empty_like(x).copy_(grad)
            grad_x, sums = native.backward(x, like_x, _c_grid(scale, offset, ctx.grid), ctx.grid.integer)
            grad_scale, grad_offset = sums.to(scale.dtype).unbind()
        else:
            function = _fused()[1] if x.is_cuda else gradients
            grad_x, grad_scale, grad_offset = function(x, grad, scale.abs(), offset, ctx.grid)
        return (
            grad_x if ctx.needs_input_grad[0] else None,
            (grad_scale * scale.sign() * ctx.gradient_scale).reshape(scale.shape) if ctx.needs_input_grad[1] else None,
            (grad_offset * ctx.gradient_scale).reshape(offset.shape) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )


def _fake_quantize(x: Tensor, scale: Tensor, offset: Tensor, grid: Grid, gradient_scale: float) -> Tensor:
    apply: Callable[..., Tensor] = _FakeQuantize.apply
    return apply(x, scale, offset, grid, gradient_scale)


def _dense(x: Tensor) -> Tensor:
    """`x` without gaps between its elements, in the order it has if that is one of the two usual ones."""
    if x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()


def _native(x: Tensor) -> Kernels | None:
    fits = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    return kernels() if fits else None


def _c_grid(scale: Tensor, offset: Tensor, grid: Grid) -> CGrid:
    positive = scale.abs()
    zero = float(zero_point(positive, offset, grid)) if grid.integer else 0.0
    return CGrid(float(positive), float(offset), zero, grid.low, grid.high)


@cache
def _fused() -> tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor, Tensor]]]:
    """Both functions compiled into one kernel each, or as they are where torch has no compiler for the GPU."""
    from torch.utils._triton import has_triton

    if not has_triton():
        return quantize, gradients
    return torch.compile(quantize, dynamic=True), torch.compile(gradients, dynamic=True)


def lsq_plus_activation(
    x: Tensor,
    scale: Tensor,
    offset: Tensor,
    bits: int = 8,
    *,
    integer_zero_point: bool = False,
    scale_gradients: bool = True,
) -> Tensor:
    """Fake-quantise activations `(N, …)` to `0 … 2^bits − 1` with a learned scale and offset, one element each.

    Args:
        x: the activations.
        scale: its absolute value is used.
        offset: the real value of integer 0.
        bits: width of the integer.
        integer_zero_point: round −offset/scale to an integer, as runtimes need (scheme `deploy`).
        scale_gradients: scale the gradients of scale and offset by 1/sqrt(n·Qp), n the elements of a sample (training).
    """
    high = 2**bits - 1
    gradient_scale = (x[0].numel() * high) ** -0.5 if scale_gradients else 1.0
    return _fake_quantize(x, scale, offset, Grid(0, high, integer_zero_point), gradient_scale)


def lsq_plus_weight(
    weight: Tensor, scale: Tensor, bits: int = 8, *, narrow: bool = False, scale_gradients: bool = True
) -> Tensor:
    """Fake-quantise weights symmetrically to `−2^(bits−1) … 2^(bits−1) − 1` with a learned scale.

    Args:
        weight: the active slice, any shape.
        scale: one element; its absolute value is used.
        bits: width of the integer.
        narrow: leave the lowest integer out, so that a channel's sign can be flipped when batch norm is folded.
        scale_gradients: scale the gradient of scale by 1/sqrt(n·Qp), n the elements of `weight` (training).
    """
    high = 2 ** (bits - 1) - 1
    low = -high if narrow else -high - 1
    gradient_scale = (weight.numel() * high) ** -0.5 if scale_gradients else 1.0
    zero = weight.new_zeros(())
    return _fake_quantize(weight, scale, zero, Grid(low, high, False), gradient_scale)
