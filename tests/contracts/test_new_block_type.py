"""A block type that only this file knows goes through everything: training, cost, latency, programs and their files."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional

from spaceevo.errors import ConfigError, TableError
from spaceevo.latency.kernels import Kernel, fit_kernels, kernels_of
from spaceevo.latency.nn_meter import blocks_ms
from spaceevo.latency.roofline import Roofline, block_work
from spaceevo.nn.block import zero_last_norms
from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.layers import ConvLayer
from spaceevo.nn.stage import Stage
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.program import Program, execute
from spaceevo.runtimes.random_program import random_block_program
from spaceevo.runtimes.registry import RUNTIMES
from spaceevo.space.blocks import BlockType, Run, register
from spaceevo.space.blocks.base import T, conv
from spaceevo.space.cost import subnet_cost
from spaceevo.space.description import parse_description
from spaceevo.space.placement import block_key, subnet_blocks
from spaceevo.space.spec import BlockSpec, Layer, Recipe
from spaceevo.space.superspace import SpaceMember
from spaceevo.space.walk import branch_end, output_hw, placed_layers


class Twin(BlockType):
    """Two convolutions and, where sizes allow, a sum with the block's input."""

    name: ClassVar[str] = "Twin"
    has_expand = False

    def recipe(self, spec: BlockSpec) -> Recipe:
        layers = {
            "spread": conv(spec.cin, 2 * spec.cout, spec.kernel, spec.stride, spec.act),
            "squash": conv(2 * spec.cout, spec.cout),
        }
        fits = spec.stride == 1 and spec.cin == spec.cout
        return layers | ({"join": Layer("add", spec.cout, spec.cout)} if fits else {})

    def forward(self, run: Run[T], x: T) -> T:
        return run("join", run("squash", run("spread", x)), x)


@pytest.fixture(autouse=True)
def twin() -> Iterator[None]:
    from spaceevo.space.blocks import base

    register(Twin)
    yield
    del base._REGISTRY["Twin"]


@pytest.fixture
def member() -> SpaceMember:
    """One searched stage of this type; images of 16 and 24 pixels, 5 classes."""

    def fixed(kind: str, **fields: object) -> dict[str, object]:
        return {"block": {"type": kind, "act": "relu", **fields}}

    space = parse_description(
        {
            "name": "twins",
            "resolutions": {"block": [16, 24], "supernet": [16, 24]},
            "candidates": [{"type": "Twin", "kernels": [3, 5], "act": "relu"}],
            "stages": {
                "first_conv": {"stride": 2, "widths": [8], **fixed("FirstConv", kernels=[3])},
                "stage1": {"widths": [8, 16], "depths": [1, 2]},
                "final_expand": {"widths": [24], **fixed("FinalExpand")},
                "feature_mix": {"widths": [32], **fixed("FeatureMix")},
                "logits": {"widths": [5], "block": {"type": "Logits", "act": "none"}},
            },
        },
        source="twins",
    )
    return space.member([0], [0])


SPEC = BlockSpec("Twin", 8, 8, 5, None, 1, "relu")
STRIDED = BlockSpec("Twin", 8, 16, 3, None, 2, "relu")


def check_files(program: Program, images: torch.Tensor) -> None:
    """What runtimes compute from the files is what the executor computes, but for roundings half-way."""
    exact, step = execute(program, images), program.tensors[program.output_name].scale
    for runtime in RUNTIMES.values():
        if find_spec(runtime.module) is None or runtime.caution():
            continue  # not installed, or it computes something else on this processor, and says so
        file = runtime.write(program)
        assert not runtime.float_ops(file)
        if runtime.rounds_twice:
            continue  # how far that goes is test_runtimes' to say
        output = runtime.load(file).logits(images)
        assert exact.std() > 0
        assert ((output - exact).abs() / step).max() <= 1.01
        assert (output == exact).double().mean() > 0.97


def test_the_walk_says_how_layers_stand() -> None:
    layers, output, hw = placed_layers(STRIDED, 9)
    assert [(p.name, p.sources, p.input_hws, p.output_hw) for p in layers] == [
        ("spread", ("input",), (9,), 5),
        ("squash", ("spread",), (5,), 5),
    ]
    assert (output, hw, output_hw(STRIDED, 9)) == ("squash", 5, 5)
    assert placed_layers(SPEC, 9).layers[-1].sources == ("squash", "input")
    assert (branch_end(SPEC), branch_end(STRIDED)) == ("squash", None)


def test_it_starts_as_its_shortcut_and_trains(member: SpaceMember) -> None:
    supernet = Supernet(member)
    zero_last_norms(supernet)
    stage = supernet.stages["stage1"]
    assert isinstance(stage, Stage)
    norms = {
        name: layer.norm.weight.abs().max().item()
        for block in stage.active_blocks
        for name, layer in block.layers.items()
        if isinstance(layer, ConvLayer) and layer.norm is not None
    }
    assert norms == {"spread": 1.0, "squash": 0.0}
    x = torch.randn(4, 8, 6, 6).relu()
    block = stage.active_blocks[0]
    block.activate(SPEC)
    assert torch.equal(block(x), x)
    images, labels = torch.randn(8, 3, 24, 24), torch.arange(8) % 5
    optimizer = torch.optim.SGD(supernet.parameters(), 0.05)
    losses = []
    for on in (False, True):
        set_quant(supernet, on)
        for _ in range(8):
            losses.append(0.0)
            for spec in (member.largest, member.smallest):
                supernet.activate(spec)
                loss = functional.cross_entropy(supernet(images), labels)
                loss.backward()
                losses[-1] += loss.item()
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]
    assert all(layer.norm.weight.abs().max() > 0 for layer in block.layers.values() if isinstance(layer, ConvLayer))


def test_costs_are_those_of_modules_counted_by_hand(member: SpaceMember) -> None:
    """Two Twins, 8→16→16 channels with kernel 5 at 12×12 pixels, between stem and heads."""
    convs = [(3, 8, 3, 12), (8, 32, 5, 12), (32, 16, 1, 12), (16, 32, 5, 12), (32, 16, 1, 12), (16, 24, 1, 12)]
    convs += [(24, 32, 1, 1)]
    modules = [nn.Sequential(nn.Conv2d(cin, cout, k, bias=False), nn.BatchNorm2d(cout)) for cin, cout, k, _ in convs]
    modules.append(nn.Sequential(nn.Linear(32, 5)))
    leaves = [leaf for module in modules for leaf in module]
    params = sum(p.numel() for leaf in leaves for p in leaf.parameters())
    params += 3 * sum(isinstance(leaf, nn.Conv2d | nn.Linear) for leaf in leaves)  # quantiser scalars
    cost = subnet_cost(member, member.largest)
    assert cost.mparams == pytest.approx(params / 1e6, abs=1e-9)
    assert cost.mmacs == pytest.approx(sum(i * o * k * k * hw * hw for i, o, k, hw in convs) / 1e6, abs=1e-9)


def test_latency_keys_kernels_and_roofline(member: SpaceMember) -> None:
    keys = [block_key(*block) for block in subnet_blocks(member, member.largest)]
    assert keys[1:3] == ["TwinBlock_12_8_16_5_None_1_relu", "TwinBlock_12_16_16_5_None_1_relu"]
    names = [kernel.name for kernel in kernels_of(SPEC, 9)]
    assert names == ["conv-bn-relu", "conv-bn-relu", "add"]
    assert kernels_of(SPEC, 9)[-1] == Kernel("add", (9, 8, 8))
    blocks = [(spec, hw) for spec in (SPEC, STRIDED) for hw in (7, 14, 28, 56)]
    latency = [0.01 + block_work(*block)["dense_mmacs"] for block in blocks]
    assert block_work(SPEC, 9)["joined"] == 8 * 81 / 1e6
    model, kernels = Roofline.fit(blocks, latency), fit_kernels(blocks, latency)
    assert [model.block_ms(*block) for block in blocks] == pytest.approx(latency, rel=0.05)
    by_key = {block_key(*block): block for block in blocks}
    assert list(blocks_ms(kernels, by_key, "mine").values()) == pytest.approx(latency, rel=0.05)


@pytest.mark.parametrize("spec", [SPEC, STRIDED])
def test_a_program_of_random_weights_and_its_files(spec: BlockSpec) -> None:
    check_files(random_block_program(spec, 9), torch.randn(2, 8, 9, 9))


@torch.no_grad()
def test_a_trained_subnet_its_program_and_its_files(member: SpaceMember) -> None:
    supernet, images = Supernet(member), torch.randn(8, 3, 24, 24)
    set_quant(supernet, True)
    recalibrate(supernet, [images], supernet)
    network = supernet.extract(member.largest).eval()
    assert torch.equal(network(images), supernet.eval()(images))
    program = to_program(network, (3, 24, 24))
    step = program.tensors[program.output_name].scale
    assert ((execute(program, images) - network(images)).abs() / step).max() <= 1.01
    check_files(program, images)


def test_a_product_that_is_no_squeeze_and_excitation_has_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(self: Twin, spec: BlockSpec) -> Recipe:
        return {"squash": conv(spec.cin, spec.cout), "join": Layer("mul", spec.cout, spec.cout)}

    monkeypatch.setattr(Twin, "recipe", recipe)
    with pytest.raises(TableError, match="layer join: nn-Meter knows products only at the end of squeeze-and-exc"):
        kernels_of(BlockSpec("Twin", 24, 24, 1, None, 1, "relu"), 9)


def test_unknown_kinds_and_activations_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^layer: kind = 'roll'; allowed: conv, depthwise, linear, pool, add, mul$"):
        Layer("roll", 8, 8)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^layer: act = 'gelu'; allowed: none, relu, relu6, hswish, swish, hsigmoid"):
        Layer("conv", 8, 8, act="gelu")  # type: ignore[arg-type]
