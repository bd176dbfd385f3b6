"""Channels-last memory order: convolutions run faster in it, on processors and on GPUs, with the same results."""

from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def channels_last(module: Module) -> Module:
    """Put a module's four-dimensional tensors in channels-last order, in place; return it."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def images_last(images: Tensor, device: torch.device | str | None = None) -> Tensor:
    """Bring `(N, C, H, W)` to `device`, in channels-last order."""
    return images.to(device or images.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
