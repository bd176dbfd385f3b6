"""Depthwise convolution on processors, with a backward that avoids oneDNN's slow cases.

oneDNN has fast gradients of depthwise weights for kernels up to 3 only; its 5×5 is some thirty times slower. The
gradient of a larger kernel is put together from those of overlapping 3×3 kernels on shifted inputs. In bfloat16, the
gradient of a strided convolution's input takes a slow path too and is computed in float32.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve each channel of `x` `(N, C, H, W)` with its own kernel of `weight` `(C, 1, K, K)`, padded by K//2."""
    if x.device.type != "cpu" or not torch.is_grad_enabled():
        return functional.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1])
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
    apply: Callable[[Tensor, Tensor, int], Tensor] = _Depthwise.apply
    return apply(x, weight, stride)


class _Depthwise(torch.autograd.Function):
    """As `conv2d`, with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return functional.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, weight), stride = ctx.saved_tensors, ctx.stride
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            wide = stride > 1 and x.dtype is torch.bfloat16
            upstream, source, kernel = (t.float() if wide else t for t in (grad, x, weight))
            grad_x = _gradients(upstream, source, kernel, stride, weight.shape[-1] // 2, (True, False))[0].to(x.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(x, grad, weight, stride)
        return grad_x, grad_weight, None


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Compute the gradient of `weight` `(C, 1, K, K)` for an upstream gradient `grad` of the result."""
    kernel = weight.shape[-1]
    if kernel <= 3:
        return _gradients(grad, x, weight, stride, kernel // 2, (False, True))[1]
    margin = kernel // 2
    height, width = ((size - 1) * stride + 3 for size in grad.shape[-2:])
    found, small = torch.empty_like(weight), weight[:, :, :3, :3].contiguous()
    for top in range(0, kernel - 2, 2):
        for left in range(0, kernel - 2, 2):
            shifted = _window(x, top - margin, left - margin, height, width)
            part = _gradients(grad, shifted, small, stride, 0, (False, True))[1]
            found[:, :, top : top + 3, left : left + 3] = part
    return found


def _window(x: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """A part of `x` `(N, C, H, W)` that may begin before it and end behind it, zeros there; written once."""
    order = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    window = torch.empty((*x.shape[:2], height, width), dtype=x.dtype, device=x.device, memory_format=order)
    rows, columns = (
        (max(start, 0), min(start + size, whole))
        for start, size, whole in ((top, height, x.shape[2]), (left, width, x.shape[3]))
    )
    tall, wide = slice(rows[0] - top, rows[1] - top), slice(columns[0] - left, columns[1] - left)
    for edge in (window[:, :, : tall.start], window[:, :, tall.stop :]):
        edge.zero_()
    for edge in (window[:, :, :, : wide.start], window[:, :, :, wide.stop :]):
        edge.zero_()
    window[:, :, tall, wide].copy_(x[:, :, slice(*rows), slice(*columns)])
    return window


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        *(grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], x.shape[1], [*wanted, False])
    )
    return grad_x, grad_weight
