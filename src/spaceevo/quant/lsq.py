"""LSQ+ fake quantisation as pure functions (Bhalgat et al. 2020, arXiv 2004.09576)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _FakeQuantize(torch.autograd.Function):
    """`round(clip((x − offset)/scale, low, high))·scale + offset` with straight-through gradients.

    Rounds half to even. The clip passes gradient strictly inside its bounds only. With an integer zero point,
    z = round(−offset/scale) takes the offset's place: `(clip(round(x/scale) + z, low, high) − z)·scale`, what
    integer runtimes compute; the gradients are the same, with straight-through rounding of z. Only `x` is kept for
    backward.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, offset: Tensor, low: int, high: int, integer: bool, gradient_scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, scale, offset)
        ctx.settings = (low, high, integer, gradient_scale)
        if integer:
            zero = torch.round(-offset / scale).clamp(low, high)
            return (x / scale).round_().add_(zero).clamp_(low, high).sub_(zero).mul_(scale)
        return ((x - offset) / scale).clamp_(low, high).round_().mul_(scale).add_(offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, offset = ctx.saved_tensors
        low, high, integer, gradient_scale = ctx.settings
        if integer:
            zero = torch.round(-offset / scale).clamp(low, high)
            value = x / scale + zero
        else:
            value = (x - offset) / scale
        inside = (value > low) & (value < high)
        grad_x = grad * inside
        grad_scale = grad_offset = None
        if ctx.needs_input_grad[1]:
            level = (x / scale).round_().add_(zero) if integer else value.round()
            grad_scale = (grad * (level.clamp_(low, high) - value * inside)).sum()
            grad_scale = (grad_scale * gradient_scale).reshape(scale.shape)
        if ctx.needs_input_grad[2]:
            grad_offset = ((grad.sum() - grad_x.sum()) * gradient_scale).reshape(offset.shape)
        return (grad_x if ctx.needs_input_grad[0] else None), grad_scale, grad_offset, None, None, None, None


def lsq_plus_activation(
    x: Tensor,
    scale: Tensor,
    offset: Tensor,
    bits: int = 8,
    *,
    integer_zero_point: bool = False,
    scale_gradients: bool = True,
) -> Tensor:
    """Fake-quantise activations to `0 … 2^bits − 1` with a learned scale and offset.

    Args:
        x: activations `(N, …)`.
        scale: one element; its absolute value is used.
        offset: one element, the real value of integer 0.
        bits: width of the integer.
        integer_zero_point: round −offset/scale to an integer, as runtimes need (scheme `deploy`).
        scale_gradients: scale the gradients of scale and offset by 1/sqrt(n·Qp), n the elements of a sample (training).

    Returns:
        The values on the grid, same shape.
    """
    high = 2**bits - 1
    gradient_scale = (x[0].numel() * high) ** -0.5 if scale_gradients else 1.0
    y: Tensor = _FakeQuantize.apply(x, scale.abs(), offset, 0, high, integer_zero_point, gradient_scale)  # type: ignore[no-untyped-call]
    return y


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

    Returns:
        The values on the grid, same shape.
    """
    high = 2 ** (bits - 1) - 1
    low = -high if narrow else -high - 1
    gradient_scale = (weight.numel() * high) ** -0.5 if scale_gradients else 1.0
    zero = weight.new_zeros(())
    y: Tensor = _FakeQuantize.apply(weight, scale.abs(), zero, low, high, False, gradient_scale)  # type: ignore[no-untyped-call]
    return y
