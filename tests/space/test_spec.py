from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaceevo.space.spec import Cost, Layer, halved, round_channels


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (52, 56),
        (84, 88),
        (1, 8),
        (8, 8),
        (11.9, 16),
        (12, 16),
        (16, 16),
        (19.9, 24),
        (20, 24),
        (27, 32),
        (43, 40),
        (44, 48),
    ],
)
def test_channels_round_to_eights_ties_upwards(value: float, rounded: int) -> None:
    assert round_channels(value) == rounded


@given(value=st.floats(0.5, 5000))
def test_channels_are_never_far_below(value: float) -> None:
    rounded = round_channels(value)
    assert rounded % 8 == 0
    assert rounded >= max(8, 0.9 * value)
    nearest = min(range(8, 5016, 8), key=lambda candidate: (abs(candidate - value), -candidate))
    assert rounded == (nearest if nearest >= 0.9 * value else nearest + 8)


@pytest.mark.parametrize(("hw", "stride", "out"), [(224, 2, 112), (7, 2, 4), (7, 1, 7), (1, 2, 1)])
def test_stride_halves_upwards(hw: int, stride: int, out: int) -> None:
    assert halved(hw, stride) == out


def test_an_envelope_holds_both() -> None:
    small, large = Layer("conv", 16, 40, 3, 2, "relu"), Layer("conv", 24, 32, 5, 2, "relu")
    assert small.envelope(large) == Layer("conv", 24, 40, 5, 2, "relu")
    assert small.envelope(large) == large.envelope(small)


CONV = Layer("conv", 8, 8, 3, 2, "relu", norm=True)


@pytest.mark.parametrize(
    "other",
    [replace(CONV, kind="depthwise"), replace(CONV, stride=1), replace(CONV, act="relu6"), replace(CONV, norm=False)],
)
def test_unlike_layers_have_no_envelope(other: Layer) -> None:
    with pytest.raises(ValueError, match="no layer holds both"):
        CONV.envelope(other)


def test_costs_add() -> None:
    assert Cost(1.0, 2.0) + Cost(0.5, 0.25) == (1.5, 2.25)
    with pytest.raises(TypeError):
        Cost(1.0, 2.0) + (1.0, 2.0)
