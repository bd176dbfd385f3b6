import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from spaceevo.nn.activation import QuantizedActivation, activate
from spaceevo.nn.layers import ConvLayer, PlainLayer, make_layer
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.quantizer import DEPLOY, PUBLISHED, Scheme
from spaceevo.space.spec import ACTIVATIONS, Activation, Layer

X = torch.linspace(-8, 8, 1601)
FORMULAS = {
    "none": X,
    "relu": X.clamp(min=0),
    "relu6": X.clamp(0, 6),
    "hswish": X * (X + 3).clamp(0, 6) / 6,
    "swish": X / (1 + torch.exp(-X)),
    "hsigmoid": (X + 3).clamp(0, 6) / 6,
}


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations_are_the_published_formulas(act: Activation) -> None:
    torch.testing.assert_close(activate(X.clone(), act), FORMULAS[act], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", [PUBLISHED, DEPLOY])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_off_is_floating_point(act: Activation, scheme: Scheme) -> None:
    assert torch.equal(QuantizedActivation(act, scheme)(X.clone()), activate(X.clone(), act))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_the_published_scheme_leaves_activations_in_float(act: Activation) -> None:
    layer = QuantizedActivation(act, PUBLISHED)
    set_quant(layer, True)
    assert torch.equal(layer(X), activate(X.clone(), act))
    assert not list(layer.parameters())


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_deployed_activations_are_what_integers_can_hold(act: Activation) -> None:
    """hswish is x·q(relu6(x + 3)/6), swish x·q(sigmoid(x)), gates on a grid of 1/256; then all is rounded."""
    layer = QuantizedActivation(act, DEPLOY)
    set_quant(layer, True)
    x = X.reshape(1, -1)
    y = layer(x)
    if act in ("hswish", "swish"):
        assert layer.input_quantizer is not None
        rounded = layer.input_quantizer(x)
        gate = (rounded + 3).clamp(0, 6) / 6 if act == "hswish" else torch.sigmoid(rounded)
        expected = rounded * torch.round(gate * 256).clamp(0, 255) / 256
    else:
        expected = activate(x.clone(), act)
    if act == "hsigmoid":
        expected = torch.round(expected * 256).clamp(0, 255) / 256
        assert torch.equal(y, expected)
    else:
        assert (y - expected).abs().max() <= 0.51 * layer.output_quantizer.scale
    assert 2 <= len(y.unique()) <= 256
    assert (y - activate(x.clone(), act)).abs().max() < 0.1  # a gate of 1 is read as 255/256, and x is rounded twice


@pytest.mark.parametrize(
    ("layer", "leaf"),
    [
        (Layer("conv", 4, 8), ConvLayer),
        (Layer("depthwise", 4, 4, 3), ConvLayer),
        (Layer("linear", 4, 8, norm=False), ConvLayer),
        (Layer("pool", 4, 4), PlainLayer),
        (Layer("add", 4, 4), PlainLayer),
        (Layer("mul", 4, 4), PlainLayer),
    ],
)
def test_a_leaf_for_every_kind(layer: Layer, leaf: type) -> None:
    assert type(make_layer(layer, DEPLOY)) is leaf


def test_layers_without_weights() -> None:
    x, y = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    gate = torch.rand(2, 4, 1, 1)
    assert torch.equal(make_layer(Layer("add", 4, 4, act="relu"), DEPLOY)(x, y), (x + y).relu())
    assert torch.equal(make_layer(Layer("mul", 4, 4), DEPLOY)(x, gate), x * gate)
    pooled = make_layer(Layer("pool", 4, 4), DEPLOY)(x)
    torch.testing.assert_close(pooled, x.sum((2, 3), keepdim=True) / 9)


def test_batch_norm_and_weights_start_as_in_pytorch() -> None:
    layer = ConvLayer(Layer("conv", 6, 8, 3), DEPLOY)
    assert (layer.norm.eps, layer.norm.momentum) == (1e-5, 0.1)
    torch.manual_seed(3)
    ours = ConvLayer(Layer("conv", 6, 8, 3), DEPLOY).get_parameter("convs.0.weight")
    torch.manual_seed(3)
    assert torch.equal(ours, nn.Conv2d(6, 8, 3, bias=False).weight)
    assert "convs.0.bias" not in layer.state_dict()
    assert "convs.0.bias" in ConvLayer(Layer("conv", 6, 8, norm=False), DEPLOY).state_dict()


@pytest.mark.parametrize(("kernel", "cin", "cout"), [(7, 6, 8), (5, 4, 8), (3, 2, 4), (1, 6, 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_slice_is_the_first_channels_and_the_middle_of_the_kernel(
    kernel: int, cin: int, cout: int, stride: int
) -> None:
    layer = ConvLayer(Layer("conv", 6, 8, 7, stride), DEPLOY).eval()
    with torch.no_grad():
        layer.norm.running_mean.normal_()
        layer.norm.weight.normal_()
    layer.active = Layer("conv", cin, cout, kernel, stride)
    margin = (7 - kernel) // 2
    weight = layer.get_parameter("convs.0.weight")[:cout, :cin, margin : 7 - margin, margin : 7 - margin]
    x = torch.randn(2, cin, 9, 9)
    y = functional.conv2d(x, weight, stride=stride, padding=kernel // 2)
    mean, variance, gain, shift = (
        layer.state_dict()[f"norm.{name}"][:cout] for name in ("running_mean", "running_var", "weight", "bias")
    )
    expected = functional.batch_norm(y, mean, variance, gain, shift)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_stack_runs_its_first_convolutions(depth: int) -> None:
    layer = ConvLayer(Layer("depthwise", 8, 8, 3, 2, "relu", stack=3), DEPLOY).eval()
    layer.active = Layer("depthwise", 4, 4, 3, 2, "relu", stack=depth)
    x = torch.randn(2, 4, 9, 9)
    y = x
    for index in range(depth):
        weight = layer.get_parameter(f"convs.{index}.weight")[:4]
        y = functional.conv2d(y, weight, stride=2 if index == 0 else 1, padding=1, groups=4)
    torch.testing.assert_close(layer(x), (y / (1 + 1e-5) ** 0.5).relu())


def test_padding_is_exactly_zero_after_quantisation() -> None:
    """A real offset would else put a step beside zero into the border."""
    layer = ConvLayer(Layer("conv", 1, 1, 3), PUBLISHED).eval()
    set_quant(layer, True)
    x = torch.rand(1, 1, 3, 3) + 5
    conv = layer.get_submodule("convs.0")
    y = conv(x, layer.active)
    quantised: Tensor = conv.get_submodule("input_quantizer")(x)
    weight = conv.get_submodule("weight_quantizer")(conv.weight)
    torch.testing.assert_close(y, functional.conv2d(functional.pad(quantised, (1, 1, 1, 1)), weight))


def test_a_linear_layer_takes_pooled_features() -> None:
    layer = make_layer(Layer("linear", 6, 5, norm=False), DEPLOY)
    x = torch.randn(1, 6, 1, 1)
    weight, bias = layer.get_parameter("convs.0.weight"), layer.get_parameter("convs.0.bias")
    torch.testing.assert_close(layer(x), functional.linear(x.flatten(1), weight.flatten(1), bias))
    assert layer(x).shape == (1, 5)


def test_a_narrowed_norm_keeps_its_momentum() -> None:
    layer = ConvLayer(Layer("conv", 6, 8), DEPLOY)
    layer.norm.momentum = 0.03
    assert layer.narrow(Layer("conv", 4, 4)).norm.momentum == 0.03


@pytest.mark.parametrize("hw", [7, 12])
def test_narrow_strided_pointwise_convolutions_take_every_other_pixel(hw: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their strided gradient overwrites memory on some processors, so no such convolution is asked for."""
    layer = make_layer(Layer("conv", 4, 6, 1, 2), DEPLOY).eval()
    assert isinstance(layer, ConvLayer)
    x = torch.randn(2, 4, hw, hw).contiguous(memory_format=torch.channels_last).requires_grad_()
    strides: list[int] = []
    convolve = functional.conv2d

    def noting(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int = 1) -> Tensor:
        strides.append(stride)
        return convolve(x, weight, bias, stride, padding, groups=groups)

    monkeypatch.setattr(functional, "conv2d", noting)
    weight = layer.convs[0].weight
    assert isinstance(weight, Tensor)
    y = layer.convs[0](x, layer.active)
    y.square().sum().backward()
    assert strides == [1]
    plain = x.detach().contiguous().requires_grad_()
    expected = torch.einsum("nchw,dc->ndhw", plain[..., ::2, ::2], weight[:, :, 0, 0])
    expected.square().sum().backward()
    assert torch.allclose(y, expected, atol=1e-6)
    assert plain.grad is not None
    assert x.grad is not None
    assert torch.allclose(x.grad, plain.grad, atol=1e-5)
