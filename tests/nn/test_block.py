"""Blocks against outputs of the published system: its parameters under our names, its inputs, its outputs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spaceevo.nn.block import Block, envelope
from spaceevo.quant.prepare import quantizers, set_quant
from spaceevo.quant.quantizer import DEPLOY, PUBLISHED
from spaceevo.space.blocks import block_type, block_types
from spaceevo.space.spec import BlockSpec, Layer
from tests.nn.published import HEADS, LAYERS, SCALARS

Golden = dict[str, Any]
FILES = [(name, stride) for name in LAYERS for stride in ((1,) if name in HEADS else (1, 2))]


def our_key(name: str, key: str) -> str:
    """`depth_conv.dwconv.dwconv1.sw` → `layers.depthwise.convs.1.weight_quantizer.scale`."""
    layer = next(theirs for theirs in LAYERS[name] if key.startswith(f"{theirs}."))
    *path, leaf = key.removeprefix(f"{layer}.").split(".")
    if path == ["norm"]:
        return f"layers.{LAYERS[name][layer]}.norm.{leaf}"
    index = re.fullmatch(r"(?:conv|dwconv)?\.?(?:dwconv(\d))?", ".".join(path))
    assert index is not None, key
    return f"layers.{LAYERS[name][layer]}.convs.{index[1] or 0}.{SCALARS.get(leaf, leaf)}"


def load(block: Block, name: str, tensors: dict[str, Tensor]) -> set[str]:
    """Copy published tensors into a block; layers that no choice uses are left out. Returns the names filled."""
    own = block.state_dict()
    renamed = {our_key(name, key): tensor for key, tensor in tensors.items()}
    assert len(renamed) == len(tensors)
    known = {key: tensor.reshape(own[key].shape) for key, tensor in renamed.items() if key in own}
    assert {key.split(".")[1] for key in renamed.keys() - known.keys()} <= {"expand", "shortcut"}
    block.load_state_dict(known, strict=False)
    return set(known)


@pytest.fixture
def golden(reference: Path, request: pytest.FixtureRequest) -> Golden:
    name, stride = request.param
    return torch.load(reference / "golden" / "blocks" / f"{name}Block_s{stride}.pt", weights_only=True)


def specs_of(golden: Golden) -> list[BlockSpec]:
    name = golden["block"].removesuffix("Block")
    cins = (golden["max_cin"],) if name == "FirstConv" else (16, golden["max_cin"])
    return [
        BlockSpec(name, cin, width, kernel, expand, golden["stride"], golden["activation"] or "relu")
        for cin in cins
        for width in golden["width_list"]
        for kernel in golden["kernel_list"]
        for expand in golden["expand_list"] or [None]
    ]


def loaded(golden: Golden) -> Block:
    specs = specs_of(golden)
    block = Block(specs, PUBLISHED).eval()
    filled = load(block, specs[0].type, golden["state_dict"])
    assert filled == {key for key in block.state_dict() if not key.endswith(".initialized")}
    return block


def put_in_force(block: Block, case: Golden) -> None:
    spec = block.spec
    choice = BlockSpec(
        spec.type, case["cin"], case["width"], case["kernel_size"], case["expand_ratio"], spec.stride, spec.act
    )
    assert choice.cout == case["output_fp32"].shape[1]
    block.activate(choice)


def assert_within(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert ((ours - theirs).norm() / theirs.norm()).item() < tolerance


every_golden = pytest.mark.parametrize("golden", FILES, indirect=True, ids=[f"{n}-s{s}" for n, s in FILES])


def test_every_type_but_the_classifier_has_a_golden() -> None:
    assert LAYERS.keys() == block_types().keys() - {"Logits"}


@every_golden
@torch.no_grad()
def test_fp32_outputs_are_the_published_ones(golden: Golden) -> None:
    block = loaded(golden)
    assert len(golden["cases"]) == 4
    for case in golden["cases"]:
        put_in_force(block, case)
        for form in (block, block.extract().eval()):
            assert_within(form(case["input"]), case["output_fp32"], 1e-5)


@every_golden
@torch.no_grad()
def test_int8_outputs_are_the_published_ones(golden: Golden) -> None:
    block = loaded(golden)
    for case in golden["cases"]:
        load(block, block.spec.type, case["scales"])
        for quantizer in quantizers(block).values():
            quantizer.initialized.fill_(True)
        put_in_force(block, case)
        fixed = block.extract().eval()
        for form in (block, fixed):
            set_quant(form, True)
            assert_within(form(case["input"]), case["output_int8"], 1e-4)
        assert_within(case["output_int8"], case["output_fp32"], 0.5)


@every_golden
@torch.no_grad()
def test_quantisers_start_where_the_published_ones_did(golden: Golden) -> None:
    """Weights at twice the published scale, as was meant (FACTS §13); activations at the block's input as published."""
    for case in golden["cases"]:
        block = loaded(golden)
        put_in_force(block, case)
        set_quant(block, True)
        block(case["input"])
        own = block.state_dict()
        starts = {our_key(block.spec.type, key): value.item() for key, value in case["scales"].items()}
        weighted = [name for name, layer in block.recipe.items() if layer.has_weight]
        for key in (key for key in starts if key in own):
            site, _, scalar = key.rpartition(".")
            ran = scalar != "scale" or starts[key] != 1
            if scalar == "scale":
                assert own[f"{site}.initialized"].item() == ran, key
            if ran and site.endswith("weight_quantizer"):
                assert own[key].item() == pytest.approx(2 * starts[key], rel=1e-6), key
            elif ran and site in {f"layers.{name}.convs.0.input_quantizer" for name in (weighted[0], "shortcut")}:
                assert own[key].item() == pytest.approx(starts[key], rel=1e-6, abs=1e-6), key


def test_an_envelope_is_over_all_choices() -> None:
    recipes = [
        {"a": Layer("conv", 8, 16)},
        {"a": Layer("conv", 24, 8), "b": Layer("add", 8, 8)},
        {"b": Layer("add", 16, 16)},
    ]
    assert envelope(recipes) == {"a": Layer("conv", 24, 16), "b": Layer("add", 16, 16)}
    assert envelope([]) == {}


def test_a_layer_that_is_not_in_force_is_skipped() -> None:
    """V2 without widening has no expand convolution, whatever the elastic block holds."""
    specs = [BlockSpec("MobileNetV2", 16, 16, 3, ratio, 1, "relu") for ratio in (1, 3)]
    block = Block(specs, DEPLOY).eval()
    block.activate(specs[0])
    assert "expand" in block.layers
    x = torch.randn(2, 16, 5, 5)
    y = block(x)
    for parameter in block.leaf("expand").parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    assert torch.equal(block(x), y)
    assert "expand" not in block.extract().layers


@pytest.mark.parametrize("name", ["MobileNetV1Dual", "MobileNetV2Res", "ResNet", "FusedMBConvRes"])
def test_narrow_choices_leave_the_other_channels_alone(name: str) -> None:
    """Statistics and gradients of channels beyond the active width stay as they are."""
    ratio = (1, 2) if block_type(name).has_expand else (None,)
    specs = [
        BlockSpec(name, cin, cout, k, e, 1, "relu")
        for cin in (8, 16)
        for cout in (8, 24)
        for k in (3, 5)
        for e in ratio
    ]
    block = Block(specs, DEPLOY).train()
    block.activate(specs[0])
    block(torch.randn(4, 8, 6, 6)).square().sum().backward()
    layers = [block.leaf(name) for name, layer in block.recipe.items() if layer.has_weight]
    assert len(layers) >= 2
    for layer in layers:
        width = layer.active.cout
        mean, variance = layer.get_buffer("norm.running_mean"), layer.get_buffer("norm.running_var")
        assert torch.all(mean[:width] != 0)
        assert torch.all(mean[width:] == 0)
        assert torch.all(variance[width:] == 1)
        gradient = layer.get_parameter("convs.0.weight").grad
        assert gradient is not None
        assert torch.all(gradient[width:] == 0)
