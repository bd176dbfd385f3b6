"""A trained network as it will be deployed: batch norm folded into integer weights, biases rounded."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spaceevo.nn.supernet import Network, resize
from spaceevo.quant.convert import to_program
from spaceevo.quant.program import Executor


class FoldedNetwork(nn.Module):
    """Evaluates a network's integer program on its device, in float32 or, for exact sums, float64; resizes images too.

    The network is an extracted one trained under `quant=deploy`, in eval mode.
    """

    def __init__(self, network: Network, input_channels: int = 3, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.resolution = network.resolution
        self.program = to_program(network, (input_channels, self.resolution, self.resolution))
        self.executor = Executor(self.program, dtype).to(next(network.parameters()).device)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images `(N, C, H, W)` into logits `(N, classes)`."""
        y: Tensor = self.executor(resize(images, self.resolution))
        return y
