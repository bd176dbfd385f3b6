"""The executor against integer arithmetic written out with Python loops."""

import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from spaceevo.quant.program import ConvWeights, Op, Program, TensorQuant, execute

A, B, OUT = TensorQuant(0.5, 10), TensorQuant(0.25, 200), TensorQuant(0.75, 30)


def grid(integers: np.ndarray, quant: TensorQuant) -> Tensor:
    return torch.from_numpy((integers - quant.zero_point) * quant.scale).float()


def requantized(real: float, quant: TensorQuant) -> int:
    return min(max(round(real / quant.scale) + quant.zero_point, 0), 255)  # Python rounds half to even


def integers_of(result: Tensor, quant: TensorQuant) -> np.ndarray:
    return np.rint(result.double().numpy() / quant.scale).astype(int) + quant.zero_point


def convolved(x: np.ndarray, weights: ConvWeights, stride: int, groups: int, zero: int, scale: float) -> np.ndarray:
    """Real values of a convolution of integers `(C, H, W)`, padded by half the kernel with the zero point."""
    cout, cin, k, _ = weights.weight.shape
    _, height, width = x.shape
    rows, columns = (math.ceil(size / stride) for size in (height, width))
    out = np.zeros((cout, rows, columns))
    for o in range(cout):
        first = o // (cout // groups) * cin
        for i in range(rows):
            for j in range(columns):
                total = int(weights.bias[o])
                for c in range(cin):
                    for u in range(k):
                        for v in range(k):
                            row, column = i * stride + u - k // 2, j * stride + v - k // 2
                            if 0 <= row < height and 0 <= column < width:
                                total += int(weights.weight[o, c, u, v]) * (int(x[first + c, row, column]) - zero)
                out[o, i, j] = total * scale * float(weights.scale[o])
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("groups", "kernel"), [(1, 1), (1, 3), (4, 3), (4, 5), (2, 3)])
def test_convolution(groups: int, kernel: int, stride: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (4, 5, 6))
    weights = ConvWeights(
        rng.integers(-127, 128, (4, 4 // groups, kernel, kernel)).astype(np.int8),
        np.array([2**-9, 2**-8, 2**-10, 2**-7], np.float32),  # powers of two: the loops' products are exact
        rng.integers(-3000, 3000, 4).astype(np.int32),
    )
    program = Program("x", (4, 5, 6), {"x": A, "y": OUT}, [Op("conv", "y", ("x",), weights, stride, groups)])
    real = convolved(x, weights, stride, groups, A.zero_point, A.scale)
    expected = np.vectorize(lambda value: requantized(value, OUT))(real)
    got = integers_of(execute(program, grid(x, A)[None]), OUT)[0]
    assert np.array_equal(got, expected)
    assert len(np.unique(expected)) > 20


def test_linear() -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(0, 256, (7, 1, 1))
    weights = ConvWeights(
        rng.integers(-127, 128, (3, 7, 1, 1)).astype(np.int8),
        np.array([0.125, 0.25, 0.5], np.float32),
        np.array([5, -900, 70], np.int32),
    )
    program = Program("x", (7, 1, 1), {"x": A, "y": TensorQuant(8.0, 99)}, [Op("linear", "y", ("x",), weights)])
    expected = []
    for o in range(3):
        total = int(weights.bias[o])
        for c in range(7):
            total += int(weights.weight[o, c, 0, 0]) * (int(x[c, 0, 0]) - A.zero_point)
        expected.append(requantized(total * A.scale * float(weights.scale[o]), TensorQuant(8.0, 99)))
    result = execute(program, grid(x, A)[None])
    assert result.shape == (1, 3)
    assert integers_of(result, TensorQuant(8.0, 99))[0].tolist() == expected


@pytest.mark.parametrize(("kind", "output"), [("add", OUT), ("mul", TensorQuant(16.0, 128))])
def test_sum_and_product(kind: Literal["add", "mul"], output: TensorQuant) -> None:
    """All pairs of 52 levels; the second tensor is the first on another grid."""
    x = np.stack(np.meshgrid(np.arange(0, 256, 5), np.arange(0, 256, 5))).reshape(2, 52, 52)
    eye = np.eye(2, dtype=np.int8).reshape(2, 2, 1, 1)
    shifted = ConvWeights(eye, np.ones(2, np.float32), np.zeros(2, np.int32))
    swapped = ConvWeights(eye[::-1].copy(), np.ones(2, np.float32), np.zeros(2, np.int32))
    program = Program("x", (2, 52, 52), {"x": A, "a": A, "b": B, "y": output})
    program.ops += [Op("conv", "a", ("x",), shifted), Op("conv", "b", ("x",), swapped), Op(kind, "y", ("a", "b"))]
    got = integers_of(execute(program, grid(x, A)[None]), output)[0]
    real = (x - A.zero_point) * A.scale
    second = np.vectorize(lambda value: (requantized(value, B) - B.zero_point) * B.scale)(real[::-1])
    joined = real + second if kind == "add" else real * second
    assert np.array_equal(got, np.vectorize(lambda value: requantized(value, output))(joined))
    assert len(np.unique(got)) > 50


def test_mean() -> None:
    x = np.random.default_rng(3).integers(0, 256, (3, 4, 4))
    program = Program("x", (3, 4, 4), {"x": A, "y": B}, [Op("mean", "y", ("x",))])
    result = execute(program, grid(x, A)[None])
    assert result.shape == (1, 3, 1, 1)
    expected = [requantized((int(channel.sum()) / 16 - A.zero_point) * A.scale, B) for channel in x]
    assert integers_of(result, B).ravel().tolist() == expected


@pytest.mark.parametrize("quant", [TensorQuant(0.03125, 128), TensorQuant(0.0625, 50), TensorQuant(0.011, 0)])
@pytest.mark.parametrize("kind", ["hard_sigmoid", "sigmoid"])
def test_gates_of_every_integer(kind: Literal["sigmoid", "hard_sigmoid"], quant: TensorQuant) -> None:
    gate = TensorQuant(1 / 256, 0)
    program = Program("x", (1, 1, 256), {"x": quant, "y": gate}, [Op(kind, "y", ("x",))])
    got = integers_of(execute(program, grid(np.arange(256), quant).reshape(1, 1, 1, 256)), gate).ravel()
    scale = float(np.float32(quant.scale))
    for integer, result in enumerate(got):
        real = (integer - quant.zero_point) * scale
        if kind == "sigmoid":
            expected = min(round(256 / (1 + math.exp(-real))), 255)
        else:
            # relu6(x + 3) on the grid 6/256: its integers, read at 1/256, are relu6(x + 3)/6.
            expected = min(round(max(real + 3, 0) * 256 / 6), 255)
        assert result == expected
    assert got.min() >= 0
    assert np.all(np.diff(got) >= 0)


@pytest.mark.parametrize(
    ("value", "integer"),
    [(-9.0, 0), (-5.0, 0), (-4.75, 0), (-4.25, 2), (0.0, 10), (0.25, 10), (0.75, 12), (999.0, 255)],
)
def test_images_are_rounded_half_to_even_and_clipped(value: float, integer: int) -> None:
    program = Program("x", (1, 1, 1), {"x": A})
    assert program.output_name == "x"
    assert execute(program, torch.full((1, 1, 1, 1), value)).item() == (integer - A.zero_point) * A.scale


def test_a_batch_is_its_images_one_by_one() -> None:
    rng = np.random.default_rng(4)
    weights = ConvWeights(
        rng.integers(-127, 128, (3, 2, 3, 3)).astype(np.int8),
        np.full(3, 0.01, np.float32),
        np.array([1, 2, 3], np.int32),
    )
    program = Program("x", (2, 6, 6), {"x": A, "y": OUT}, [Op("conv", "y", ("x",), weights)])
    images = torch.randn(3, 2, 6, 6) * 20
    assert torch.equal(execute(program, images), torch.cat([execute(program, image[None]) for image in images]))
