"""Packed convolutions against torch's."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from spaceevo.runtimes.litert.packing import pack_kernel, packed_pixels


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_packed_convolution_is_the_convolution(kernel: int, stride: int, pixels: int) -> None:
    generator = torch.Generator().manual_seed(kernel + stride + pixels)
    height, width, inputs, outputs = 9, 16, 3, 5
    x = torch.randint(-128, 128, (2, inputs, height, width), generator=generator).double()
    weight = torch.randint(-127, 128, (outputs, inputs, kernel, kernel), generator=generator).double()
    expected = functional.conv2d(x, weight, None, stride, kernel // 2)
    packed, block = pack_kernel(weight.numpy(), stride, pixels), stride * pixels
    # Channels last, as in the file: pixels side by side are read as channels of one.
    wide = x.permute(0, 2, 3, 1).reshape(2, height, width // block, block * inputs).permute(0, 3, 1, 2)
    wide = functional.pad(wide, (packed.left, packed.right, kernel // 2, kernel // 2))
    y = functional.conv2d(wide, torch.from_numpy(packed.weight), None, (stride, 1))
    y = y.permute(0, 2, 3, 1).reshape(2, expected.shape[2], width // stride, outputs).permute(0, 3, 1, 2)
    assert torch.equal(y, expected)
    assert np.count_nonzero(packed.weight) == pixels * np.count_nonzero(weight)


@pytest.mark.parametrize(
    ("channels", "width", "stride", "pixels"),
    [(8, 80, 1, 8), (3, 160, 2, 8), (16, 80, 1, 4), (16, 40, 2, 2), (32, 40, 2, 1), (64, 20, 1, 0), (8, 75, 1, 0)],
)
def test_as_many_pixels_as_fill_a_tile(channels: int, width: int, stride: int, pixels: int) -> None:
    assert packed_pixels(channels, width, stride, 64) == pixels
    assert packed_pixels(channels, width, stride, 1) == 0
