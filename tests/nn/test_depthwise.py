"""The depthwise convolution's gradients against those of torch's own in double precision."""

import pytest
import torch
from torch.nn import functional

from spaceevo.nn.depthwise import depthwise_conv2d


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(9, 12), (4, 4), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_a_convolution(
    kernel: int, stride: int, size: tuple[int, int], dtype: torch.dtype
) -> None:
    x = torch.randn(3, 6, *size).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(6, 1, kernel, kernel).to(dtype).requires_grad_()
    wide = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    y = depthwise_conv2d(x, weight, stride)
    expected = functional.conv2d(wide[0], wide[1], None, stride, kernel // 2, groups=6)
    grad = torch.randn_like(y)
    y.backward(grad)
    expected.backward(grad.double())
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    for ours, theirs in ((y, expected), (x.grad, wide[0].grad), (weight.grad, wide[1].grad)):
        assert ours is not None
        assert theirs is not None
        assert ours.dtype is dtype
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()


def test_autocast_runs_it_in_half_precision() -> None:
    x, weight = torch.randn(2, 4, 6, 6, requires_grad=True), torch.randn(4, 1, 5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv2d(x, weight, 1)
    y.sum().backward()
    assert y.dtype is torch.bfloat16
    assert x.grad.dtype is weight.grad.dtype is torch.float32
