import copy

import pytest
import torch
from torch import Tensor, nn

from spaceevo.quant.prepare import float_state, prepare, quantizers, set_quant
from spaceevo.quant.quantizer import PUBLISHED
from spaceevo.torchvision_shim import ensure_torchvision


def library_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 9, 9)


def test_off_is_the_model_as_it_was(images: Tensor) -> None:
    model = library_model()
    before = model(images)
    prepared = prepare(model)
    assert prepared is model
    assert torch.equal(prepared(images), before)
    assert not any(quantizer.initialized for quantizer in quantizers(prepared).values())


def test_on_is_close_and_not_the_same(images: Tensor) -> None:
    model = library_model()
    before = model(images)
    set_quant(prepare(model), True)
    after = model(images)
    assert all(quantizer.initialized for quantizer in quantizers(model).values())
    error = (after - before).norm() / before.norm()
    assert 1e-5 < error < 0.05
    set_quant(model, False)
    assert torch.equal(model(images), before)


def test_every_convolution_and_linear_layer_has_two_quantisers() -> None:
    assert sorted(quantizers(prepare(library_model()))) == [
        "0.input_quantizer",
        "0.parametrizations.weight.0",
        "3.0.input_quantizer",
        "3.0.parametrizations.weight.0",
        "6.input_quantizer",
        "6.parametrizations.weight.0",
    ]


def test_inputs_and_weights_lie_on_their_grids(images: Tensor) -> None:
    model = prepare(library_model())
    set_quant(model, True)
    seen: dict[str, Tensor] = {}
    first = model.get_submodule("0")
    first.register_forward_hook(lambda _, inputs, output: seen.update(x=inputs[0], y=output))
    model(images)
    scale, offset = (first.get_parameter(f"input_quantizer.{name}") for name in ("scale", "offset"))
    levels = (seen["x"] - offset) / scale
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert isinstance(first, nn.Conv2d)
    integers = first.weight / first.get_parameter("parametrizations.weight.0.scale")
    torch.testing.assert_close(integers, integers.round(), atol=1e-3, rtol=0)
    assert 127 <= integers.abs().max().round() <= 128
    torch.testing.assert_close(seen["y"], torch.nn.functional.conv2d(seen["x"], first.weight))
    assert seen["x"].shape[-2:] == (11, 11)


def test_weights_scales_and_offsets_learn(images: Tensor) -> None:
    model = prepare(library_model()).train()
    set_quant(model, True)
    model(images).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    for name, parameter in model.named_parameters():
        if name.endswith(("original", "scale")):
            assert parameter.grad.abs().sum() > 0, name


def test_float_state_drops_the_quantisers_keys_only() -> None:
    model = library_model()
    names = {key.replace(".weight", ".parametrizations.weight.original") for key in model.state_dict()}
    names = {name.replace("1.parametrizations.weight.original", "1.weight") for name in names}
    state = prepare(model).state_dict()
    kept = float_state(state)
    assert set(kept) == names
    assert {key.rsplit(".", 1)[-1] for key in state.keys() - kept.keys()} == {"scale", "offset", "initialized"}
    assert all(kept[key] is state[key] for key in kept)


def test_state_round_trip_keeps_the_quantised_output(images: Tensor) -> None:
    source, target = prepare(library_model()), prepare(library_model())
    set_quant(source, True)
    expected = source(images)
    target.load_state_dict(copy.deepcopy(source.state_dict()))
    set_quant(target, True)
    target(100 * images)
    assert torch.equal(target(images), expected)


@pytest.mark.parametrize("model", [nn.Linear(4, 3), nn.Conv2d(4, 3, 1)])
def test_a_layer_alone_is_a_model_too(model: nn.Module) -> None:
    x = torch.randn(2, 4, 1, 1) if isinstance(model, nn.Conv2d) else torch.randn(2, 4)
    before = model(x)
    prepare(model, PUBLISHED)
    assert torch.equal(model(x), before)
    set_quant(model, True)
    assert 0 < (model(x) - before).abs().max() < 0.1


def test_float_state_of_a_layer_alone() -> None:
    assert set(float_state(prepare(nn.Linear(4, 3)).state_dict())) == {"bias", "parametrizations.weight.original"}


@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(1, 2, 7), (1, 1, 6), (3, 2, 8), (3, 2, 9), (5, 1, 6), (2, 3, 7)]
)
def test_padding_as_tensorflow_keeps_what_a_layer_computes(kernel: int, stride: int, size: int) -> None:
    """Also where the stride exceeds the kernel, and nothing is to be padded."""
    ensure_torchvision()
    from timm.layers.conv2d_same import Conv2dSame

    layer = Conv2dSame(3, 4, kernel, stride)
    x = torch.randn(2, 3, size, size)
    expected = layer(x)
    assert expected.shape[-1] == -(-size // stride)
    torch.testing.assert_close(prepare(nn.Sequential(layer))(x), expected)
