"""LSQ+ against the published system, and against an element-by-element straight-through form written here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spaceevo.quant.lsq import lsq_plus_activation, lsq_plus_weight

GOLDEN = 10


def close(ours: Tensor, golden: Tensor) -> None:
    """Within 1e-6 of the largest value."""
    torch.testing.assert_close(ours, golden, rtol=1e-6, atol=1e-6 * max(1.0, golden.abs().max().item()))


@pytest.fixture(scope="module")
def golden(reference: Path) -> list[dict[str, Any]]:
    return torch.load(reference / "golden" / "lsq_plus.pt", weights_only=True)


@pytest.mark.parametrize("index", range(GOLDEN))
def test_published_values_and_gradients(golden: list[dict[str, Any]], index: int) -> None:
    assert len(golden) == GOLDEN
    case = golden[index]
    x, scale = (case[name].clone().requires_grad_() for name in ("input", "scale"))
    if case["kind"] == "activation":
        offset = case["beta"].clone().requires_grad_()
        y = lsq_plus_activation(x, scale, offset, case["bits"])
    else:
        offset = None
        y = lsq_plus_weight(x, scale, case["bits"])
    y.backward(case["grad_output"])
    close(y.detach(), case["output"])
    close(x.grad, case["grad_input"])
    close(scale.grad, case["grad_scale"])
    if offset is not None:
        close(offset.grad, case["grad_beta"])


def straight_through(rounded: Tensor, exact: Tensor) -> Tensor:
    """Value of `rounded`, gradient of `exact`."""
    return exact + (rounded - exact).detach()


def scaled(value: Tensor, factor: float) -> Tensor:
    """Gradient times `factor`."""
    return straight_through(value, value * factor)


def expected(x: Tensor, scale: Tensor, offset: Tensor, low: int, high: int, integer: bool, factor: float) -> Tensor:
    """The map of one tensor, written with plain operations; inside is strictly between the bounds."""
    s, b = scaled(scale.abs(), factor), scaled(offset, factor)
    if integer:
        zero = torch.round(-offset / scale.abs()).clamp(low, high).detach()
        ratio = x / s
        level = straight_through(torch.round(ratio) + zero, ratio + zero)
        inside = (ratio.detach() + zero > low) & (ratio.detach() + zero < high)
        end = torch.where(x / scale.abs() + zero >= high, float(high), float(low)).detach()
        # A clipped value is its bound, read with the real offset where gradients are concerned.
        clipped = end * s + straight_through(-zero * s.detach(), b)
        return torch.where(inside, level.clamp(low, high) * s - zero * s, clipped)
    ratio = (x - b) / s
    inside = (ratio.detach() > low) & (ratio.detach() < high)
    end = torch.where(ratio >= high, float(high), float(low)).detach()
    return torch.where(inside, straight_through(torch.round(ratio), ratio), end) * s + b


def assert_same_map(x: Tensor, scale: float, offset: float, bits: int, integer: bool, training: bool) -> None:
    def leaves() -> tuple[Tensor, Tensor, Tensor]:
        return tuple(t.clone().double().requires_grad_() for t in (x, torch.tensor([scale]), torch.tensor([offset])))  # type: ignore[return-value]

    ours, theirs = leaves(), leaves()
    high = 2**bits - 1
    factor = (x[0].numel() * high) ** -0.5 if training else 1.0
    y = lsq_plus_activation(*ours, bits, integer_zero_point=integer, scale_gradients=training)
    z = expected(*theirs, 0, high, integer, factor)
    torch.testing.assert_close(y, z, rtol=1e-12, atol=1e-12)
    direction = torch.linspace(-1, 2, x.numel(), dtype=torch.double).reshape(x.shape)
    y.backward(direction)
    z.backward(direction)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("integer", [False, True])
@given(
    scale=st.floats(1e-3, 10) | st.floats(-10, -1e-3),
    offset=st.floats(-30, 0),
    bits=st.sampled_from([2, 4, 8]),
    training=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_activations_equal_the_plain_form(
    integer: bool, scale: float, offset: float, bits: int, training: bool, seed: int
) -> None:
    spread = 1.5 * abs(scale) * 2**bits
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed)).double() * spread / 3 + offset
    assert_same_map(x, scale, offset, bits, integer, training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("offset", [0.0, -2.0, -8.0])
def test_ties_and_bounds_with_a_real_offset(offset: float, training: bool) -> None:
    """Halves round to even; the bounds themselves pass no gradient (to x) and all of it (to the offset)."""
    x = torch.arange(-4, 70).div(8).reshape(2, 37) + offset  # steps of half a scale, from below to above the range
    assert_same_map(x, 0.25, offset, 4, integer=False, training=training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("zero", [0, 3, 8, 15])
def test_ties_and_bounds_with_an_integer_zero_point(zero: int, training: bool) -> None:
    x = (torch.arange(-4, 70).div(8).reshape(2, 37)) - 0.25 * zero
    assert_same_map(x, 0.25, -0.25 * zero, 4, integer=True, training=training)


@pytest.mark.parametrize(
    ("value", "output", "passes"),
    [
        (-0.1, 0.0, 0),
        (0.0, 0.0, 0),
        (0.1, 0.0, 1),
        (0.125, 0.0, 1),
        (0.375, 0.5, 1),
        (3.7, 3.75, 1),
        (3.75, 3.75, 0),
        (9.0, 3.75, 0),
    ],
)
@pytest.mark.parametrize("integer", [False, True])
def test_one_value_at_a_time(value: float, output: float, passes: int, integer: bool) -> None:
    x = torch.tensor([[value]], requires_grad=True)
    y = lsq_plus_activation(x, torch.tensor(0.25), torch.tensor(0.0), 4, integer_zero_point=integer)
    y.sum().backward()
    assert (y.item(), x.grad.item()) == (output, passes)


@given(
    scale=st.floats(1e-3, 1),
    offset=st.floats(-20, 0),
    seed=st.integers(0, 10**6),
)
def test_integer_zero_points_put_zero_on_the_grid(scale: float, offset: float, seed: int) -> None:
    x = torch.randn(2, 50, generator=torch.Generator().manual_seed(seed)) * 10
    s, b = torch.tensor(scale), torch.tensor(offset)
    y = lsq_plus_activation(torch.cat([x, torch.zeros(2, 1)], 1), s, b, integer_zero_point=True)
    assert torch.all(y[:, -1] == 0)
    levels = y / s + torch.round(-b / s).clamp(0, 255)
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert levels.round().min() >= 0
    assert levels.round().max() <= 255


@pytest.mark.parametrize(("narrow", "lowest"), [(False, -128), (True, -127)])
def test_weights_end_at_the_lowest_integer(narrow: bool, lowest: int) -> None:
    scale = 0.5
    w = (
        torch.tensor([-200.0, -128.0, -127.6, -127.5, -127.0, -0.5, 0.5, 1.5, 126.5, 127.0, 500.0])
        .mul(scale)
        .requires_grad_()
    )
    y = lsq_plus_weight(w, torch.tensor(scale), narrow=narrow)
    bottom = [lowest, lowest, lowest, lowest, -127]  # −127.5 rounds to −128 and −127 is the narrow bound
    assert (y / scale).tolist() == [*bottom, 0, 0, 2, 126, 127, 127]
    y.sum().backward()
    below = [0, 0, 0, 0, 0] if narrow else [0, 0, 1, 1, 1]
    assert w.grad.tolist() == [*below, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("narrow", [False, True])
@given(scale=st.floats(1e-3, 1) | st.floats(-1, -1e-3), training=st.booleans(), seed=st.integers(0, 10**6))
def test_weights_equal_the_plain_form(narrow: bool, scale: float, training: bool, seed: int) -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(seed)).double() * 60 * abs(scale)
    w, v = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    s, t = (torch.tensor(scale, dtype=torch.double, requires_grad=True) for _ in range(2))
    factor = (weight.numel() * 127) ** -0.5 if training else 1.0
    y = lsq_plus_weight(w, s, narrow=narrow, scale_gradients=training)
    z = expected(v, t, torch.zeros((), dtype=torch.double), -127 if narrow else -128, 127, False, factor)
    torch.testing.assert_close(y, z, rtol=1e-12, atol=1e-12)
    direction = torch.linspace(-1, 2, weight.numel(), dtype=torch.double).reshape(weight.shape)
    y.backward(direction)
    z.backward(direction)
    torch.testing.assert_close(w.grad, v.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(s.grad, t.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_gradients_have_the_shape_of_their_parameter(shape: tuple[int, ...]) -> None:
    scale, offset = torch.full(shape, 0.1).requires_grad_(), torch.full(shape, -1.0).requires_grad_()
    lsq_plus_activation(torch.randn(2, 3), scale, offset).sum().backward()
    assert scale.grad.shape == offset.grad.shape == shape


def test_gradients_stop_where_none_is_wanted() -> None:
    x = torch.randn(2, 3)
    scale = torch.tensor(0.1, requires_grad=True)
    lsq_plus_activation(x, scale, torch.tensor(0.0)).sum().backward()
    assert scale.grad is not None
    assert x.grad is None
