import copy
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from spaceevo.errors import ConfigError
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.quantizer import (
    DEPLOY,
    GATE_SCALE,
    MAX_SCALE_STEP,
    MIN_SCALE,
    PUBLISHED,
    REDUCED_RANGE,
    RELU6_SCALE,
    ActivationConfig,
    ActivationQuantizer,
    Quantizer,
    Scheme,
    WeightConfig,
    WeightQuantizer,
    quant_scheme,
)
from spaceevo.space.spec import Activation

Kind = TypeVar("Kind", bound=Quantizer)


def switched_on(quantizer: Kind | None) -> Kind:
    assert quantizer is not None
    quantizer.turn(True)
    return quantizer


def published() -> ActivationQuantizer:
    return switched_on(PUBLISHED.input_quantizer())


def deploy(act: Activation = "none") -> ActivationQuantizer:
    return switched_on(DEPLOY.tensor_quantizer(act))


@pytest.mark.parametrize(
    "quantizer", [PUBLISHED.input_quantizer(), PUBLISHED.weight_quantizer(), DEPLOY.tensor_quantizer()]
)
def test_off_changes_nothing(quantizer: Quantizer) -> None:
    x = torch.randn(2, 3)
    before = copy.deepcopy(quantizer.state_dict())
    assert quantizer(x) is x
    assert quantizer.state_dict() == before
    assert not quantizer.initialized


@pytest.mark.parametrize("training", [True, False])
def test_a_published_activation_spans_its_first_tensor(training: bool) -> None:
    quantizer = published().train(training)
    x = torch.randn(4, 5, 6, 6) + 3
    y = quantizer(x)
    assert quantizer.initialized
    assert quantizer.scale.item() == pytest.approx((x.max() - x.min()).item() / 255, rel=1e-6)
    assert quantizer.offset.item() == x.min().item()
    assert (y - x).abs().max() <= 0.5001 * quantizer.scale
    quantizer(100 * x)
    assert quantizer.offset.item() == x.min().item()


@pytest.mark.parametrize(
    ("low", "high", "zero"),
    [(-1.0, 3.0, 64), (2.0, 6.0, 0), (-6.0, -2.0, 255), (-1.0, 2.0, 85)],
)
def test_a_deploy_activation_keeps_zero_on_its_grid(low: float, high: float, zero: int) -> None:
    quantizer = deploy()
    quantizer(torch.tensor([[low, high]]))
    scale, zero_point = quantizer.scale_and_zero_point()
    assert scale == pytest.approx((max(high, 0) - min(low, 0)) / 255, rel=1e-6)
    assert zero_point == zero
    assert quantizer(torch.zeros(1, 1)).item() == 0


@pytest.mark.parametrize("act", ["relu", "relu6", "hsigmoid"])
def test_non_negative_tensors_learn_no_offset(act: Activation) -> None:
    quantizer = deploy(act)
    quantizer(torch.rand(2, 3))
    assert "offset" not in dict(quantizer.named_parameters())
    assert "offset" not in quantizer.state_dict()
    assert quantizer.scale_and_zero_point()[1] == 0


def test_relu6_never_spans_more_than_six() -> None:
    quantizer = deploy("relu6")
    quantizer(torch.full((1, 4), 3.0))
    assert quantizer.scale.item() == pytest.approx(3 / 255)
    with torch.no_grad():
        quantizer.scale.fill_(1.0)
        quantizer.last_scale.fill_(1.0)
    assert quantizer.scale_and_zero_point() == pytest.approx((6 / 255, 0))
    x = torch.linspace(0, 6, 256).reshape(1, 256)
    torch.testing.assert_close(quantizer(x), x, atol=1e-5, rtol=0)
    deploy("relu")(x)


@pytest.mark.parametrize("config", [WeightConfig(), WeightConfig(narrow=True), REDUCED_RANGE.weight])
def test_weights_span_twice_their_maximum(config: WeightConfig) -> None:
    quantizer = switched_on(WeightQuantizer(config))
    weight = torch.randn(8, 3, 3, 3)
    y = quantizer(weight)
    most = 63 if config == REDUCED_RANGE.weight else 127
    assert quantizer.scale.item() == pytest.approx(2 * weight.abs().max().item() / (2 * most + 1), rel=1e-6)
    assert (y - weight).abs().max() <= quantizer.scale * 0.51
    levels = quantizer.integers(weight)
    torch.testing.assert_close(levels * quantizer.scale, y)
    assert levels.min() >= -most - 1 + config.narrow
    assert levels.abs().max() == most


def test_narrow_weights_leave_out_the_lowest_integer() -> None:
    wide, narrow = (switched_on(WeightQuantizer(WeightConfig(narrow=narrow))) for narrow in (False, True))
    weight = torch.tensor([-1.0, 1.0])
    for quantizer in (wide, narrow):
        quantizer(weight)
        with torch.no_grad():
            quantizer.scale.fill_(1 / 200)
    assert wide.integers(weight).tolist() == [-128, 127]
    assert narrow.integers(weight).tolist() == [-127, 127]


@pytest.mark.parametrize("value", [-0.5, 0.0, 1e-12])
@pytest.mark.parametrize("quantizer", [PUBLISHED.input_quantizer(), PUBLISHED.weight_quantizer()])
def test_scales_have_a_floor(quantizer: Quantizer, value: float) -> None:
    switched_on(quantizer)(torch.randn(2, 3))
    with torch.no_grad():
        quantizer.scale.fill_(value)
    y = quantizer(torch.randn(2, 3))
    assert quantizer.scale.item() == pytest.approx(MIN_SCALE) == pytest.approx(1e-7 / 255)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize(
    "quantizer", [PUBLISHED.input_quantizer(), PUBLISHED.weight_quantizer(), DEPLOY.tensor_quantizer()]
)
def test_a_tensor_of_zeros_stays_zero(quantizer: Quantizer) -> None:
    y = switched_on(quantizer)(torch.zeros(2, 3))
    assert torch.equal(y, torch.zeros(2, 3))


def test_a_tensor_of_zeros_says_nothing_of_its_range() -> None:
    quantizer = deploy()
    quantizer(torch.zeros(2, 3))
    assert quantizer.scale.item() == pytest.approx(1 / 255)
    assert quantizer.scale.item() > 0


@pytest.mark.parametrize("scheme", [PUBLISHED, DEPLOY])
def test_a_loaded_quantizer_is_not_initialised_again(scheme: Scheme) -> None:
    def activation() -> Quantizer:
        return switched_on(scheme.input_quantizer() or scheme.tensor_quantizer())

    for make in (activation, lambda: switched_on(scheme.weight_quantizer())):
        source, target = make(), make()
        x = torch.randn(2, 30)
        y = source(x)
        target.load_state_dict(source.state_dict())
        assert target.initialized
        assert torch.equal(target(x), y)
        scale = target.scale.item()
        target(50 * x)
        assert target.scale.item() == scale


def test_turning_on_again_keeps_what_was_learnt() -> None:
    quantizer = published()
    quantizer(torch.randn(2, 3))
    scale = quantizer.scale.item()
    quantizer.turn(False)
    quantizer.turn(True)
    quantizer(100 * torch.randn(2, 3))
    assert quantizer.scale.item() == scale


@pytest.mark.parametrize("scale", [GATE_SCALE, RELU6_SCALE])
def test_fixed_quantizers_neither_learn_nor_initialise(scale: float) -> None:
    quantizer = switched_on(DEPLOY.fixed_quantizer(scale))
    assert not list(quantizer.parameters())
    assert "scale" not in quantizer.state_dict()
    y = quantizer(torch.full((1, 1), 1000.0))
    assert y.item() == 255 * scale
    assert quantizer.scale_and_zero_point() == (scale, 0)


def test_gradients_are_scaled_in_training_only() -> None:
    def gradient(training: bool) -> Tensor:
        quantizer = published().train(training)
        x = torch.linspace(-1, 1, 60).reshape(2, 30)
        quantizer(x)
        (quantizer(3 * x) * torch.arange(60).reshape(2, 30)).sum().backward()
        assert quantizer.scale.grad is not None
        return quantizer.scale.grad

    torch.testing.assert_close(gradient(True), gradient(False) / (30 * 255) ** 0.5)


def test_real_offsets_have_no_zero_point() -> None:
    with pytest.raises(ConfigError, match="integer programs need quant=deploy"):
        published().scale_and_zero_point()


def test_schemes_by_name() -> None:
    assert (quant_scheme("published"), quant_scheme("deploy")) == (PUBLISHED, DEPLOY)
    with pytest.raises(ConfigError, match="unknown quantisation scheme 'lsq'; allowed: published, deploy"):
        quant_scheme("lsq")


@pytest.mark.parametrize(("scheme", "on_inputs"), [(PUBLISHED, True), (DEPLOY, False)])
def test_where_quantisers_stand(scheme: Scheme, on_inputs: bool) -> None:
    assert (scheme.input_quantizer() is not None) == on_inputs
    assert (scheme.tensor_quantizer("relu") is None) == on_inputs
    assert (scheme.fixed_quantizer(0.5) is None) == on_inputs
    assert scheme.weight.narrow == (not on_inputs)


def test_a_tree_is_switched_as_one() -> None:
    tree = nn.ModuleList([WeightQuantizer(WeightConfig()), nn.ModuleList([ActivationQuantizer(ActivationConfig())])])
    set_quant(tree, True)
    assert [child.is_on for child in tree.modules() if isinstance(child, Quantizer)] == [True, True]
    assert "on" in repr(tree)
    set_quant(tree, False)
    assert [child.is_on for child in tree.modules() if isinstance(child, Quantizer)] == [False, False]


def test_a_deployed_scale_survives_a_step_that_would_kill_it() -> None:
    quantizer = DEPLOY.weight_quantizer()
    set_quant(quantizer, True)
    weight = torch.linspace(-1, 1, 101)
    quantizer(weight)
    start = quantizer.scale.item()

    with torch.no_grad():
        quantizer.scale.fill_(-5.0)
    first = quantizer(weight)
    assert quantizer.scale.item() == pytest.approx(start / MAX_SCALE_STEP)
    assert torch.equal(quantizer(weight), first)  # no step in between: nothing moves

    with torch.no_grad():
        quantizer.scale.fill_(5.0)
    quantizer.eval()(weight)
    assert quantizer.scale.item() == pytest.approx(start)


def test_a_published_scale_is_left_to_its_fate() -> None:
    quantizer = PUBLISHED.weight_quantizer()
    set_quant(quantizer, True)
    quantizer(torch.linspace(-1, 1, 101))
    with torch.no_grad():
        quantizer.scale.fill_(-5.0)
    quantizer(torch.linspace(-1, 1, 101))
    assert quantizer.scale.item() == pytest.approx(MIN_SCALE)
