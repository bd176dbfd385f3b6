"""Helpers of tests that look at single integers."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from spaceevo.quant.program import ConvWeights, Program, TensorQuant
from spaceevo.quant.quantizer import GATE_SCALE
from spaceevo.runtimes.base import Runtime


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


def narrowed(program: Program) -> Program:
    """The program with weights within ±63: no sum of two products of uint8 and int8 then exceeds 16 bits."""
    ops = [
        op if op.weights is None else replace(op, weights=replace(op.weights, weight=op.weights.weight // 2))
        for op in program.ops
    ]
    return replace(program, ops=ops)


def for_here(runtime: Runtime, program: Program) -> Program:
    """The program as this machine's processor lets the runtime compute it; narrowed where sums are cut off."""
    return narrowed(program) if runtime.caution(program.largest_weight) else program


def steps_apart(program: Program, one: Tensor, other: Tensor) -> Tensor:
    """Difference of two outputs in integers."""
    return ((one - other) / program.tensors[program.output_name].scale).round().abs()
