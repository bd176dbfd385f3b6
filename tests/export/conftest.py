"""A small quantised network of every digits block type, and its integer program."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spaceevo
from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.program import ConvWeights, Program, TensorQuant
from spaceevo.quant.quantizer import GATE_SCALE
from spaceevo.space.spec import Activation

RANGED: tuple[Activation, ...] = ("relu6", "hswish", "swish")
"""Activations of each way to write a range: by its bounds, by a gate of relu6, by a gate of sigmoid."""


@pytest.fixture(scope="package")
def images() -> Tensor:
    """Noise that differs in contrast and brightness, as photographs do."""
    generator = torch.Generator().manual_seed(1)
    contrast = 1.5 * torch.rand(64, 1, 1, 1, generator=generator)
    brightness = torch.randn(64, 3, 1, 1, generator=generator)
    return torch.randn(64, 3, 24, 24, generator=generator) * contrast + brightness


@pytest.fixture(scope="package")
def network(images: Tensor, randomize: Callable[[nn.Module], nn.Module]) -> Network:
    """Its statistics are those of the images: else its logits hardly depend on them, and every file would agree."""
    torch.manual_seed(0)
    supernet = Supernet(spaceevo.parse_space("digits-012-000")).eval()
    randomize(supernet)
    smallest = supernet.member.smallest
    supernet.activate(smallest)
    recalibrate(supernet, [images], supernet)
    spaceevo.set_quant(supernet, True)
    with torch.no_grad():
        logits = supernet(images)
    assert logits.std(0).mean() > 0.5 * logits.std()
    assert len(logits.argmax(1).unique()) > 5
    return supernet.extract(smallest)


@pytest.fixture(scope="package")
def program(network: Network) -> Program:
    return to_program(network, (3, 24, 24))


def irregular(program: Program, seed: int = 0) -> Program:
    """The program with scales, zero points and biases as training leaves them.

    The round numbers of random programs put many sums exactly half-way between two integers, where float32 and exact
    arithmetic may round apart.
    """
    rng = np.random.default_rng(seed)
    tensors = {
        name: quant
        if quant.scale == GATE_SCALE
        else TensorQuant(quant.scale * rng.uniform(0.8, 1.25), quant.zero_point and int(rng.integers(100, 156)))
        for name, quant in program.tensors.items()
    }
    ops = []
    for op in program.ops:
        if (weights := op.weights) is not None:
            scale = (weights.scale * rng.uniform(0.5, 2, len(weights.scale))).astype(np.float32)
            bias = rng.integers(-3000, 3000, len(scale), dtype=np.int32)
            op = replace(op, weights=ConvWeights(weights.weight, scale, bias))
        ops.append(op)
    return replace(program, tensors=tensors, ops=ops)


def steps_apart(program: Program, one: Tensor, other: Tensor) -> Tensor:
    """Difference of two outputs in integers."""
    return ((one - other) / program.tensors[program.output_name].scale).round().abs()
