"""Folding, bias rounding and lowering: each against the real-valued layer it stands for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from spaceevo.quant.convert import (
    BIAS_LIMIT,
    FoldedConv,
    LayerQuant,
    ProgramBuilder,
    fold_norm,
    lower_layer,
    random_recipe_quants,
)
from spaceevo.quant.program import ConvWeights, TensorQuant, execute
from spaceevo.quant.quantizer import GATE_SCALE
from spaceevo.space.blocks import block_type, block_types
from spaceevo.space.spec import Activation, BlockSpec, Layer

IMAGES = TensorQuant(0.05, 100)


def conv(weight: object, scale: object, bias: object) -> FoldedConv:
    return FoldedConv(np.asarray(weight, dtype=np.int8), np.asarray(scale, float), np.asarray(bias, float))


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 1, 5, 5), (4, 6)])
def test_folding_a_norm_is_exact(shape: tuple[int, ...]) -> None:
    """Scale × integer weight equals gain × the layer's weight to the last bit, gains of any sign and zero included."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, shape).astype(float)
    gain, shift, scale = np.array([1.5, -0.3, 0.0, -2.0]), rng.standard_normal(4), 0.0123
    folded = fold_norm(weight, scale, gain, shift)
    per_channel = (-1, *[1] * (len(shape) - 1))
    real = folded.weight.astype(float) * folded.scale.reshape(per_channel)
    assert np.array_equal(real, weight * (gain * scale).reshape(per_channel))
    assert np.array_equal(folded.bias, shift)
    assert folded.weight.dtype == np.int8
    assert (folded.scale >= 0).all()
    assert np.array_equal(np.abs(folded.weight), np.abs(weight))


@pytest.mark.parametrize("seed", range(3))
def test_a_folded_norm_computes_what_batch_norm_does(seed: int) -> None:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(6).double().eval()
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 3)
        integers = torch.randint(-127, 128, (6, 4, 3, 3)).double()
        x, scale = torch.randn(2, 4, 5, 5).double(), 0.01
        expected = norm(nn.functional.conv2d(x, integers * scale))
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        gain = norm.weight / torch.sqrt(variance + norm.eps)
        folded = fold_norm(integers.numpy(), scale, gain.numpy(), (norm.bias - mean * gain).numpy())
    weight = torch.from_numpy(folded.weight.astype(float) * folded.scale.reshape(-1, 1, 1, 1))
    torch.testing.assert_close(nn.functional.conv2d(x, weight, torch.from_numpy(folded.bias)), expected)


def lowered(folded: FoldedConv, layer: Layer) -> ConvWeights:
    builder = ProgramBuilder((layer.cin, 4, 4), IMAGES)
    builder.conv("y", layer, folded, 1, "images", TensorQuant(0.1, 0))
    weights = builder.program.ops[0].weights
    assert weights is not None
    return weights


def test_biases_are_rounded_on_the_accumulators_grid() -> None:
    weights = lowered(conv(np.full((3, 2, 1, 1), 100), [0.02, 0.5, 0.001], [0.3, -7.0, 0.0]), Layer("conv", 2, 3))
    grid = np.float32(IMAGES.scale) * weights.scale
    assert weights.scale.dtype == np.float32
    assert weights.bias.dtype == np.int32
    assert weights.scale.tolist() == np.array([0.02, 0.5, 0.001], np.float32).tolist()
    assert np.all(weights.weight == 100)
    np.testing.assert_allclose(weights.bias * grid, [0.3, -7.0, 0.0], atol=0.5 * grid.max())
    assert weights.bias.tolist() == [300, -280, 0]


def test_small_integers_are_stretched_so_that_biases_round_finer() -> None:
    integers = np.array([[1, -3], [0, 0], [64, 2], [-63, 9]]).reshape(4, 2, 1, 1)
    weights = lowered(conv(integers, [0.02] * 4, [0.0123] * 4), Layer("conv", 2, 4))
    assert weights.weight.reshape(4, 2).tolist() == [[42, -126], [0, 0], [64, 2], [-126, 18]]
    real = weights.weight * weights.scale.reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(real, integers * 0.02, rtol=1e-6)
    errors = np.abs(weights.bias * np.float32(IMAGES.scale) * weights.scale - 0.0123)
    assert np.all(errors <= 0.5 * IMAGES.scale * 0.02 / np.array([42, 1, 1, 2]) * (1 + 1e-5))


def test_weights_are_stretched_no_further_than_their_limit() -> None:
    integers = np.array([[1, -3], [0, 0], [33, 2], [-63, 9]]).reshape(4, 2, 1, 1)
    folded = replace(conv(integers, [0.02] * 4, [0.0123] * 4), limit=63)
    weights = lowered(folded, Layer("conv", 2, 4))
    assert weights.weight.reshape(4, 2).tolist() == [[21, -63], [0, 0], [33, 2], [-63, 9]]


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e-9])
@pytest.mark.parametrize("bias", [1.0, -50.0])
def test_a_faint_channel_keeps_its_bias(scale: float, bias: float) -> None:
    """Its weights shrink instead: an int32 bias on their own grid would overflow."""
    weights = lowered(conv(np.full((2, 2, 1, 1), 127), [0.02, scale], [0.5, bias]), Layer("conv", 2, 2))
    assert abs(int(weights.bias[1])) <= BIAS_LIMIT * (1 + 1e-6)
    assert weights.bias[1] * float(np.float32(IMAGES.scale) * weights.scale[1]) == pytest.approx(bias, rel=1e-6)
    assert weights.weight[0].tolist() == [[[127]], [[127]]]
    assert weights.scale[0] == np.float32(0.02)
    real = weights.weight[1].astype(float) * float(weights.scale[1])
    np.testing.assert_allclose(real, 127 * scale, atol=0.5 * float(weights.scale[1]))
    products = 2 * 255 * 127
    assert abs(int(weights.bias[1])) + products < 2**31


@pytest.mark.parametrize(
    ("layer", "kinds", "names"),
    [
        (Layer("conv", 4, 8, act="relu"), ["conv"], ["y"]),
        (Layer("linear", 4, 8, norm=False), ["linear"], ["y"]),
        (Layer("pool", 4, 4), ["mean"], ["y"]),
        (Layer("conv", 4, 8, act="hswish"), ["conv", "hard_sigmoid", "mul"], ["y.pre", "y.gate", "y"]),
        (Layer("conv", 4, 8, act="swish"), ["conv", "sigmoid", "mul"], ["y.pre", "y.gate", "y"]),
        (Layer("depthwise", 4, 4, 3, stack=3), ["conv", "conv", "conv"], ["y.0", "y.1", "y"]),
        (
            Layer("depthwise", 4, 4, 3, act="hswish", stack=2),
            ["conv", "conv", "hard_sigmoid", "mul"],
            ["y.pre.0", "y.pre", "y.gate", "y"],
        ),
    ],
)
def test_operations_of_a_layer(layer: Layer, kinds: list[str], names: list[str]) -> None:
    builder = ProgramBuilder((4, 6, 6), IMAGES)
    numbers = random_recipe_quants({"y": layer})["y"]
    assert lower_layer(builder, "y", layer, numbers, ["images"]) == "y"
    ops = builder.program.ops
    assert [op.kind for op in ops] == kinds
    assert [op.output for op in ops] == names
    assert builder.program.tensors["y"] == numbers.output
    assert builder.program.tensors.keys() == {"images", *names}
    if "y.gate" in names:
        assert builder.program.tensors["y.gate"] == TensorQuant(1 / 256, 0)
        assert ops[-1].inputs == ("y.pre", "y.gate")


def test_the_stride_is_the_first_of_a_stack() -> None:
    layer = Layer("depthwise", 4, 4, 3, stride=2, stack=3)
    builder = ProgramBuilder((4, 9, 9), IMAGES)
    lower_layer(builder, "y", layer, random_recipe_quants({"y": layer})["y"], ["images"])
    assert [(op.stride, op.groups) for op in builder.program.ops] == [(2, 4), (1, 4), (1, 4)]


def test_hard_sigmoid_moves_into_the_convolution() -> None:
    """relu6(y + 3)/6 to within half a step, for the convolution's whole range."""
    layer = Layer("conv", 1, 1, act="hsigmoid", norm=False)
    builder = ProgramBuilder((1, 1, 256), TensorQuant(0.05, 128))
    numbers = LayerQuant(TensorQuant(GATE_SCALE, 0), (conv([[[[1]]]], [1.0], [0.2]),))
    lower_layer(builder, "y", layer, numbers, ["images"])
    x = (torch.arange(256).double() - 128).mul(0.05).reshape(1, 1, 1, 256).float()
    expected = nn.functional.hardsigmoid(x.double() + 0.2)
    got = execute(builder.program, x).double()
    assert (got - expected.clamp(max=255 / 256)).abs().max() <= 0.5001 / 256


@pytest.mark.parametrize("act", ["relu", "relu6", "hswish", "swish"])
@pytest.mark.parametrize("name", sorted(block_types()))
def test_untrained_numbers_make_a_program_of_every_block(name: str, act: Activation) -> None:
    kind = block_type(name)
    spec = BlockSpec(name, 8, 16, 1 if kind.is_head else 3, 2 if kind.has_expand else None, 1, act)
    recipe, hw = kind.recipe(spec), 1 if name == "Logits" else 6
    numbers = random_recipe_quants(recipe)
    builder = ProgramBuilder((8, hw, hw), IMAGES)

    def run(layer: str, /, *inputs: str) -> str:
        return lower_layer(builder, layer, recipe[layer], numbers[layer], inputs) if layer in recipe else inputs[0]

    output = kind.forward(run, "images")
    assert output == builder.program.output_name
    y = execute(builder.program, torch.randn(2, 8, hw, hw))
    assert y.shape[:2] == (2, 16)
    assert len(y.unique()) > 8
