"""Contract of every block type: the elastic form and the extracted one are the same function, bit for bit."""

import copy
import itertools
from collections.abc import Callable, Iterator
from random import Random

import pytest
import torch
from torch import Tensor, nn

from spaceevo.nn.block import Block
from spaceevo.nn.layers import ConvLayer
from spaceevo.quant.prepare import quantizers, set_quant
from spaceevo.quant.quantizer import Scheme, quant_scheme
from spaceevo.space.blocks import block_type, block_types
from spaceevo.space.spec import Activation, BlockSpec

Randomize = Callable[[nn.Module], nn.Module]
ACTS: dict[str, Activation] = {"MobileNetV1": "relu", "MobileNetV2Res": "relu6", "MobileNetV3Res": "hswish"}
CASES = [(name, stride) for name, kind in block_types().items() for stride in ((1,) if kind.is_head else (1, 2))]


def choices_of(name: str, stride: int) -> list[BlockSpec]:
    """Every mix of two input widths, two widths, three kernels and three ratios, the largest last."""
    kind = block_type(name)
    kernels = (1,) if kind.is_head else (3, 5, 7)
    ratios = (None,) if not kind.has_expand else (0.5, 1.0, 1.5) if name.startswith("ResNet") else (1, 2, 3)
    act: Activation = "none" if name == "Logits" else ACTS.get(name, "swish")
    mixes = itertools.product((16, 24), (16, 24), kernels, ratios)
    return [BlockSpec(name, cin, cout, kernel, ratio, stride, act) for cin, cout, kernel, ratio in mixes]


def images(spec: BlockSpec, batch: int) -> Tensor:
    hw = 1 if spec.type == "Logits" else 7
    return torch.randn(batch, spec.cin, hw, hw)


def statistics(block: Block) -> dict[str, tuple[Tensor, Tensor]]:
    """Running statistics of the channels in force."""
    layers = {name: block.leaf(name) for name in block.recipe}
    return {
        name: (
            layer.get_buffer("norm.running_mean")[: layer.active.cout],
            layer.get_buffer("norm.running_var")[: layer.active.cout],
        )
        for name, layer in layers.items()
        if isinstance(layer, ConvLayer) and layer.norm is not None
    }


def extracted(block: Block) -> Block:
    """The extracted block, in the mode of its source."""
    fixed = block.extract().train(block.training)
    set_quant(fixed, any(quantizer.is_on for quantizer in quantizers(block).values()))
    return fixed


@pytest.fixture(params=["published", "deploy"])
def scheme(request: pytest.FixtureRequest) -> Scheme:
    return quant_scheme(request.param)


@pytest.fixture
def block(request: pytest.FixtureRequest, scheme: Scheme, randomize: Randomize) -> Block:
    block = Block(choices_of(*request.param), scheme)
    randomize(block)
    return block


def each(block: Block, count: int | None = None) -> Iterator[BlockSpec]:
    """Put the choices in force one after the other; with `count`, the smallest, the largest and some others."""
    specs = choices_of(block.spec.type, block.spec.stride)
    if count is not None and count < len(specs):
        specs = [specs[0], specs[-1], *Random(0).sample(specs[1:-1], count - 2)]
    for spec in specs:
        block.activate(spec)
        yield spec


deploy_only = pytest.mark.parametrize("scheme", ["deploy"], indirect=True)
every_block = pytest.mark.parametrize("block", CASES, indirect=True, ids=[f"{n}-s{s}" for n, s in CASES])


@torch.no_grad()
def check_eval_mode(block: Block, quant: bool, count: int | None) -> None:
    block.eval()
    set_quant(block, quant)
    for index, spec in enumerate(each(block, count)):
        x = images(spec, 1 + 2 * (index % 2))
        y = block(x)
        assert torch.equal(extracted(block)(x), y), spec
        assert y.shape[:2] == (len(x), spec.cout)
        assert torch.isfinite(y).all()


modes = pytest.mark.parametrize(
    ("scheme", "quant"),
    [
        pytest.param("published", False, marks=pytest.mark.slow),  # off, the schemes differ in nothing but their names
        ("published", True),
        ("deploy", False),
        ("deploy", True),
    ],
    indirect=["scheme"],
)


@every_block
@modes
def test_extracted_equals_elastic_in_eval_mode(block: Block, quant: bool) -> None:
    check_eval_mode(block, quant, count=3)


@pytest.mark.slow
@every_block
@modes
def test_every_choice_extracted_equals_elastic(block: Block, quant: bool) -> None:
    check_eval_mode(block, quant, count=None)


@every_block
@modes
def test_extracted_equals_elastic_in_training(block: Block, quant: bool) -> None:
    """Outputs, updated statistics and every gradient."""
    set_quant(block, quant)
    block.train()
    for spec in each(block, 2):
        x = images(spec, 3)
        with torch.no_grad():
            block(x)
        fixed = extracted(block)
        results = []
        for form in (block, fixed):
            form.zero_grad(set_to_none=True)
            images_in = x.clone().requires_grad_()
            y = form(images_in)
            y.backward(torch.linspace(-1, 1, y.numel()).reshape(y.shape))
            assert images_in.grad is not None
            results.append((y.detach(), images_in.grad))
        assert torch.equal(results[0][0], results[1][0]), spec
        assert torch.equal(results[0][1], results[1][1]), spec
        for name, (mean, variance) in statistics(fixed).items():
            assert torch.equal(statistics(block)[name][0], mean)
            assert torch.equal(statistics(block)[name][1], variance)
        elastic_parameters = dict(block.named_parameters())
        for name, parameter in fixed.named_parameters():
            whole = elastic_parameters[name].grad
            assert (parameter.grad is None) == (whole is None) == ("quantizer" in name and not quant), name
            if whole is not None:
                # The slice's gradient is the whole one: the rest is zero.
                assert parameter.grad.abs().sum().item() == pytest.approx(
                    whole.abs().sum().item(), rel=1e-4, abs=1e-6
                ), name


@every_block
@torch.no_grad()
def test_quantisers_start_alike_in_both_forms(block: Block) -> None:
    """A subnet that is extracted before its first INT8 forward initialises as the elastic form does."""
    block.eval()
    set_quant(block, True)
    for spec in each(block, 2):
        fresh = copy.deepcopy(block)
        fixed = extracted(fresh)
        x = images(spec, 2)
        assert torch.equal(fixed(x), fresh(x))
        starts = {name: quantizer.scale.item() for name, quantizer in quantizers(fixed).items()}
        assert {name: quantizers(fresh)[name].scale.item() for name in starts} == starts
        assert all(quantizer.initialized for quantizer in quantizers(fixed).values())


@every_block
@torch.no_grad()
def test_int8_is_close_to_fp32_and_not_the_same(block: Block) -> None:
    block.eval()
    for spec in each(block, 2):
        x = images(spec, 4)
        exact = block(x)
        fresh = copy.deepcopy(block)
        set_quant(fresh, True)
        error = (fresh(x) - exact).norm() / exact.norm()
        assert 1e-4 < error < 0.15, spec


@every_block
@deploy_only
@torch.no_grad()
def test_extracting_copies(block: Block) -> None:
    """Neither form sees what happens to the other; extracting leaves the elastic form as it was."""
    block.eval()
    before = copy.deepcopy(block.state_dict())
    fixed = extracted(block)
    x = images(block.spec, 2)
    y = fixed(x)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    for parameter in block.parameters():
        parameter.fill_(7.0)
    assert torch.equal(fixed(x), y)
    assert set(fixed.state_dict()) <= set(before)


@every_block
@deploy_only
@torch.no_grad()
def test_an_extracted_block_extracts_to_itself(block: Block) -> None:
    block.eval()
    for spec in each(block, 2):
        fixed = extracted(block)
        again = extracted(fixed)
        assert {n: v.shape for n, v in again.state_dict().items()} == {
            n: v.shape for n, v in fixed.state_dict().items()
        }
        x = images(spec, 2)
        assert torch.equal(again(x), fixed(x))


@every_block
@deploy_only
@torch.no_grad()
def test_order_of_activation_does_not_matter(block: Block) -> None:
    block.eval()
    specs = list(each(block, 6))
    x = images(specs[0], 2)
    block.activate(specs[0])
    first = block(x)
    for spec in specs[::-1]:
        block.activate(spec)
    assert torch.equal(block(x), first)


@pytest.mark.parametrize("name", sorted(block_types()))
def test_a_block_is_as_large_as_its_largest_choice(name: str, scheme: Scheme) -> None:
    """Only K3 stacks and skipped layers apart, no weight exceeds that of the largest choice."""
    specs = choices_of(name, 1)
    elastic, largest = Block(specs, scheme), Block(specs[-1:], scheme)
    shapes = {key: tuple(value.shape) for key, value in elastic.state_dict().items()}
    for key_, value in largest.state_dict().items():
        assert shapes[key_] == tuple(value.shape), key_
    extra = {key_.split(".")[1] for key_ in shapes.keys() - largest.state_dict().keys()}
    assert extra <= {"shortcut", "add"}
