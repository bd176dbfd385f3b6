"""Networks as they are deployed: folded into integers, and, trained under `published`, with one range a tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spaceevo.nn.block import Block
from spaceevo.nn.layers import ConvLayer, ElasticLayer
from spaceevo.nn.stage import Stage
from spaceevo.nn.supernet import Network, resize
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.program import Executor
from spaceevo.quant.quantizer import DEPLOY, LEVELS, ActivationQuantizer

FINEST_MEAN = (
    200  # ONNX Runtime refuses means in steps of less than 1/256 of their values', which few batches may leave
)


class FoldedNetwork(nn.Module):
    """Evaluates a network's integer program on its device, in float32 or, for exact sums, float64; resizes images too.

    The network is an extracted one trained under a deployable scheme, in eval mode.
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


class _LearnedRanges:
    """Reads which tensor each convolution's quantiser stands at; convolutions that share a tensor share the union."""

    def __init__(self) -> None:
        self.ranges: dict[str, tuple[float, float]] = {}

    def layer(self, name: str, leaf: ElasticLayer, inputs: Sequence[str], /) -> str:
        if isinstance(leaf, ConvLayer):
            tensors = [inputs[0], *(f"{name}.{index}" for index in range(leaf.active.stack - 1))]
            for tensor, conv in zip(tensors, leaf.active_convs, strict=True):
                self._widen(tensor, conv.input_quantizer)
        return name

    def _widen(self, tensor: str, quantizer: object) -> None:
        if not isinstance(quantizer, ActivationQuantizer) or not quantizer.initialized:
            return
        low = quantizer.offset.item()
        high = low + LEVELS * abs(quantizer.scale.item())
        known = self.ranges.get(tensor, (0.0, 0.0))  # integer runtimes need 0 on the grid
        self.ranges[tensor] = (min(low, known[0]), max(high, known[1]))


class _Quantizers:
    """Finds the quantiser of every tensor."""

    def __init__(self) -> None:
        self.found: dict[str, ActivationQuantizer] = {}
        self.pooled: dict[str, str] = {}  # mean over height and width → what it is the mean of

    def layer(self, name: str, leaf: ElasticLayer, inputs: Sequence[str], /) -> str:
        placed = {name: leaf.activation.output_quantizer, f"{name}.pre": leaf.activation.input_quantizer}
        if isinstance(leaf, ConvLayer):
            placed |= {f"{name}.{i}": quantizer for i, quantizer in enumerate(leaf.between_quantizers)}
        elif leaf.layer.kind == "pool":
            self.pooled[name] = inputs[0]
        self.found |= {tensor: quantizer for tensor, quantizer in placed.items() if quantizer is not None}
        return name


@torch.no_grad()
def make_deployable(network: Network, images: Tensor) -> tuple[Network, list[str]]:
    """Turn a network trained under `published` into one under `deploy`, in INT8.

    Weights and their scales are taken over. Ranges learned at convolutions' inputs become those of the tensors; all
    others are the least and greatest value seen on `images`, and −128 among the weights becomes −127. What no integer
    runtime can do is lost: clipping at a range that leaves 0 out, another range for each reader of a tensor, and means
    in steps of less than 1/`FINEST_MEAN` of those of the values.

    Returns:
        The new network, and the tensors whose ranges were calibrated on the images `(N, C, H, W)`.
    """
    stages = {
        name: Stage([Block([block.spec], DEPLOY) for block in stage.active_blocks])
        for name, stage in network.active_stages.items()
    }
    device = next(network.parameters()).device
    deployable = Network(stages, network.resolution, DEPLOY.tensor_quantizer()).to(device).eval()
    deployable.load_state_dict(network.state_dict(), strict=False)
    learned = _LearnedRanges()
    places = _Quantizers()
    network.lower(learned, "images")
    deployable.lower(places, "images")
    assert deployable.image_quantizer is not None
    places.found["images"] = deployable.image_quantizer
    calibrated = []
    for tensor, quantizer in places.found.items():
        if quantizer.config.fixed_scale is not None:
            continue
        if tensor in learned.ranges:
            _set_range(quantizer, *learned.ranges[tensor])
        else:
            calibrated.append(tensor)
    set_quant(deployable, True)
    deployable(images.to(device))
    for mean, values in places.pooled.items():
        _coarsen(places.found[mean], places.found[values].scale.abs().item() / FINEST_MEAN)
    return deployable, calibrated


def _coarsen(quantizer: ActivationQuantizer, least: float) -> None:
    """Give a quantiser steps of this size where its own are finer."""
    if quantizer.scale.abs().item() < least:
        _set_range(quantizer, quantizer.offset.item(), quantizer.offset.item() + LEVELS * least)


def _set_range(quantizer: ActivationQuantizer, low: float, high: float) -> None:
    low = low if quantizer.config.learns_offset else 0.0
    quantizer.set_scale(quantizer.scale.new_tensor((high - low) / LEVELS))
    quantizer.offset.fill_(low)
