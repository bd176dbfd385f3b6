"""Packs narrow convolutions as wide ones: pixels side by side become channels of one, which fills wide matrix units.

The same products and sums, and zeros besides; every result is the same integer. AMX multiplies tiles of 64 inputs: a
3×3 convolution of 8 channels fills an eighth of each, and takes a fifth of the time packed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spaceevo.runtimes.machine import instruction_sets

AMX_CHANNELS = 64
"""Input channels, a byte each, that one AMX tile holds."""


def channels_to_fill(asked: int | None) -> int:
    """Resolve `packed_channels`: None fills this machine's matrix units; 1 where packing does not pay."""
    if asked is not None:
        return asked
    return AMX_CHANNELS if "amx_int8" in instruction_sets() else 1


class PackedKernel(NamedTuple):
    """Holds a convolution over packed pixels."""

    weight: NDArray[np.generic]  # `(pixels·Cout, stride·pixels·Cin, K, blocks)`
    pixels: int  # output pixels, side by side, that one packed pixel holds; of the input `stride` times as many
    left: int  # packed pixels to pad on the left; `right` likewise
    right: int


def packed_pixels(channels: int, width: int, stride: int, packed_channels: int) -> int:
    """Find how many pixels of the output, a power of 2, have inputs that fit in `packed_channels`; 0 where none do."""
    pixels = 0
    following = 1
    while following * stride * channels <= packed_channels and width % (following * stride) == 0:
        pixels, following = following, 2 * following
    return pixels if pixels * stride > 1 else 0


def pack_kernel(weight: NDArray[np.generic], stride: int, pixels: int) -> PackedKernel:
    """Rewrite the kernel `(Cout, Cin, K, K)` of a convolution, padded by half of it, for packed pixels."""
    outputs, inputs, kernel, _ = weight.shape
    block, margin = stride * pixels, kernel // 2
    first = -margin // block
    last = (stride * (pixels - 1) + kernel - 1 - margin) // block
    packed = np.zeros((pixels * outputs, block * inputs, kernel, last - first + 1), weight.dtype)
    for pixel in range(pixels):
        for tap in range(kernel):
            place, position = divmod(stride * pixel + tap - margin, block)
            rows, columns = slice(pixel * outputs, None), slice(position * inputs, None)
            packed[rows, columns][:outputs, :inputs, :, place - first] = weight[..., tap]
    return PackedKernel(packed, pixels, -first, last)
