"""Weight sharing: a subnet in force and the same subnet extracted are one function."""

import copy
from collections.abc import Callable
from random import Random

import pytest
import torch
from torch import Tensor, nn

from spaceevo.errors import ConfigError, EncodingError
from spaceevo.nn.block import Block
from spaceevo.nn.stage import Stage
from spaceevo.nn.supernet import Supernet, resize
from spaceevo.quant.prepare import quantizers, set_quant
from spaceevo.quant.quantizer import DEPLOY, Quantizer, quant_scheme
from spaceevo.space.cost import subnet_cost
from spaceevo.space.description import parse_space, superspace
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import sample_subnet, sample_substage
from spaceevo.space.superspace import SpaceMember, Superspace
from tests.nn.conftest import SEARCHED, TYPES, Make

Images = Callable[[int, int], Tensor]
schemes = pytest.mark.parametrize("quant", ["published", "deploy"])
int8_or_not = pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])


@pytest.fixture
def no_fresh_weights(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, layers are made of NaN: what an extracted network computes comes from the supernet alone."""

    def poison(tensor: Tensor, *_: object, **__: object) -> Tensor:
        with torch.no_grad():
            return tensor.fill_(float("nan"))

    def start() -> None:
        for name in ("kaiming_uniform_", "uniform_"):
            monkeypatch.setattr(nn.init, name, poison)

    return start


@torch.no_grad()
def assert_extraction_is_exact(supernet: Supernet, seeds: range, resolution: int | None = None, batch: int = 2) -> None:
    for seed in seeds:
        spec = supernet.sample(Random(seed))
        network = supernet.extract(spec)
        supernet.activate(spec)
        hw = resolution or spec.resolution
        supernet.resolution = network.resolution = hw
        x = torch.randn(batch, 3, hw, hw, generator=torch.Generator().manual_seed(seed))
        expected = supernet(x)
        assert torch.equal(network(x), expected), spec
        assert torch.isfinite(expected).all()
        assert network.training == supernet.training


@schemes
@int8_or_not
@pytest.mark.parametrize("name", ["digits-012-010", pytest.param("digits-201-111", marks=pytest.mark.slow)])
def test_extracted_subnets_are_identical(
    grown: Make, no_fresh_weights: Callable[[], None], name: str, quant: str, int8: bool
) -> None:
    supernet = grown(parse_space(name), quant, int8)
    no_fresh_weights()
    assert_extraction_is_exact(supernet, range(3))
    assert_extraction_is_exact(supernet, range(3, 4), batch=1)


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        pytest.param("mobilew-013456-133421", "published", marks=pytest.mark.slow),
        ("onnxw-501234-123123", "deploy"),
    ],
)
def test_extracted_subnets_of_published_spaces_are_identical(
    grown: Make, no_fresh_weights: Callable[[], None], name: str, quant: str
) -> None:
    supernet = grown(parse_space(name), quant, resolution=32)
    no_fresh_weights()
    assert_extraction_is_exact(supernet, range(2), resolution=32)


@pytest.mark.slow
@schemes
@pytest.mark.parametrize("name", ["mobilew-013456-133421", "onnxw-501234-123123"])
@torch.no_grad()
def test_a_thousand_extracted_subnets_are_identical(
    grown: Make, no_fresh_weights: Callable[[], None], name: str, quant: str
) -> None:
    """250 under each scheme and in each space, each in INT8 and in fp32, every second one on a single image."""
    supernet = grown(parse_space(name), quant, resolution=32)
    no_fresh_weights()
    for seed in range(250):
        set_quant(supernet, True)
        spec = supernet.sample(Random(f"{quant}-{seed}"))
        network = supernet.extract(spec)
        supernet.activate(spec)
        supernet.resolution = network.resolution = 32
        x = torch.randn(1 + seed % 2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        outputs = []
        for int8 in (True, False):
            set_quant(supernet, int8)
            set_quant(network, int8)
            outputs.append(supernet(x))
            assert torch.equal(network(x), outputs[-1]), spec
        assert torch.isfinite(torch.cat(outputs)).all()
        assert not torch.equal(*outputs)


@pytest.mark.parametrize("kind", TYPES)
def test_extracted_subnets_of_every_type(zoo: Superspace, grown: Make, kind: str) -> None:
    member = zoo.member((SEARCHED.index(kind),) * 3, (1, 0, 1))
    assert_extraction_is_exact(grown(member), range(1))


@schemes
@int8_or_not
def test_extracted_subnets_train_identically(grown: Make, quant: str, int8: bool) -> None:
    """One step: same logits, statistics and gradients; the dropout is the supernet's own affair."""
    supernet = grown(parse_space("digits-012-010"), quant, int8).train()
    for seed in range(2):
        spec = supernet.sample(Random(seed))
        supernet.activate(spec)
        x = torch.randn(4, 3, spec.resolution, spec.resolution)
        with torch.no_grad():
            supernet(x)  # sites that no subnet used before start here
        network = supernet.extract(spec)
        results = []
        for form in (supernet, network):
            form.zero_grad(set_to_none=True)
            y = form(x)
            y.square().sum().backward()
            results.append(y.detach())
        assert torch.equal(*results)
        whole, statistics = dict(supernet.named_parameters()), supernet.state_dict()
        for name, parameter in network.named_parameters():
            expected = whole[name].grad
            assert (parameter.grad is None) == (expected is None)
            if expected is not None:
                torch.testing.assert_close(parameter.grad.abs().sum(), expected.abs().sum(), rtol=1e-4, atol=1e-6)
        for name, value in network.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                assert torch.equal(statistics[name][: len(value)], value)


@schemes
@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3"])
@torch.no_grad()
def test_extracted_substages_are_identical(randomize: Callable[[nn.Module], nn.Module], name: str, quant: str) -> None:
    for block in range(3):
        space = superspace("digits").stage_space(name, block)
        stage = Stage.elastic(space, quant_scheme(quant))
        randomize(stage).eval()
        for seed in range(2):
            rng = Random(seed)
            cin, blocks = rng.choice(space.cins), sample_substage(space, rng)
            stage.activate(space.specs(blocks, cin))
            x = torch.randn(2, cin, 8, 8)
            for int8 in (False, True):
                set_quant(stage, int8)
                y = stage(x)
                fixed = stage.extract().eval()
                set_quant(fixed, int8)
                assert torch.equal(fixed(x), y)
                assert y.shape == (2, blocks[-1].width, 4, 4)
                assert len(fixed.blocks) == len(blocks)


def test_an_elastic_stage_starts_at_its_largest() -> None:
    space = superspace("digits").stage_space("stage2", 0)
    stage = Stage.elastic(space, DEPLOY)
    assert [block.spec for block in stage.active_blocks] == list(space.specs(space.largest, 32))


@schemes
@int8_or_not
def test_the_extracted_network_has_the_supernets_mode(grown: Make, quant: str, int8: bool) -> None:
    supernet = grown(parse_space("digits-012-010"), quant, int8)
    for training in (True, False):
        network = supernet.train(training).extract(supernet.member.smallest)
        assert {module.training for module in network.modules()} == {training}
        assert {module.is_on for module in network.modules() if isinstance(module, Quantizer)} == {int8}
        assert all(q.initialized.item() == int8 or not list(q.parameters()) for q in quantizers(network).values())


def test_extracting_leaves_the_supernet_as_it_was(grown: Make) -> None:
    supernet = grown(parse_space("digits-012-010"))
    supernet.activate_max()
    before = copy.deepcopy(supernet.state_dict())
    network = supernet.extract(supernet.member.smallest)
    assert supernet.spec == supernet.member.largest
    assert supernet.resolution == 32
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    assert set(network.state_dict()) <= set(before)


def test_parameters_of_an_extracted_network_are_those_of_its_cost(grown: Make) -> None:
    member = parse_space("digits-012-010")
    for seed in range(3):
        spec = sample_subnet(member, Random(seed))
        network = Supernet(member, "published").extract(spec)
        count = sum(parameter.numel() for parameter in network.parameters())
        assert count == round(subnet_cost(member, spec).mparams * 1e6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("_r24", "_r28"), "resolution 28 is not allowed"),
        (("_w8#8#16", "_w8#8#32"), "stage1, block 1: width 32 is not allowed; allowed: 16, 24"),
        (("d1#1#1#1#1", "d1#1#1#1"), "4 depths for the stages"),
    ],
)
def test_a_foreign_subnet_is_refused_and_nothing_changes(change: tuple[str, str], words: str) -> None:
    supernet = Supernet(parse_space("digits-000-000"))
    text = "d1#1#1#1#1_k3#3#3#3#3_w8#8#16#24#40_e0#0#2.0#2.0#2.0_r24"
    supernet.activate(SubnetSpec.parse(text))
    if change[0].startswith("d1"):
        text = text.replace("_k3#3#3#3#3_w8#8#16#24#40_e0#0#2.0#2.0#2.0", "_k3#3#3#3_w8#8#16#24_e0#0#2.0#2.0")
    wrong = SubnetSpec.parse(text.replace(*change))
    before, state = supernet.spec, [block.spec for block in supernet.modules() if isinstance(block, Block)]
    for refuse in (supernet.activate, supernet.extract):
        with pytest.raises(EncodingError) as caught:
            refuse(wrong)
        assert words in str(caught.value)
    assert supernet.spec == before
    assert [block.spec for block in supernet.modules() if isinstance(block, Block)] == state


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown quantisation scheme 'int8'; allowed: published, deploy"):
        Supernet(parse_space("digits-000-000"), "int8")


def test_largest_and_smallest_are_put_in_force() -> None:
    supernet = Supernet(parse_space("digits-012-110"))
    assert supernet.spec == supernet.member.largest
    supernet.activate_min()
    assert (supernet.spec, supernet.resolution) == (supernet.member.smallest, 24)
    assert [stage.depth for stage in supernet.stages.values()] == [1] * 8
    supernet.activate_max()
    assert (supernet.spec, supernet.resolution) == (supernet.member.largest, 32)
    assert [stage.depth for stage in supernet.stages.values()] == [1, 1, 2, 2, 2, 1, 1, 1]


def test_samples_follow_their_generator() -> None:
    supernet = Supernet(parse_space("digits-012-110"))

    def draw(seed: int) -> list[SubnetSpec]:
        generator = torch.Generator().manual_seed(seed)
        return [supernet.sample(generator) for _ in range(5)]

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    assert len(set(draw(0))) > 1
    assert supernet.sample(Random(2)) == sample_subnet(supernet.member, Random(2))
    assert supernet.spec == supernet.member.largest


@pytest.mark.parametrize(
    ("name", "stage", "layer", "shape"),
    [
        # FACTS §1: channels of the window, but a stage's first block reads the previous stage's whole list.
        ("mobilew-122222-155400", "stage1", "project", (40, 256, 1, 1)),
        ("mobilew-122222-155400", "stage2", "expand", (320, 40, 1, 1)),
        ("mobilew-122222-000000", "stage2", "expand", (320, 40, 1, 1)),
        ("mobilew-122222-155400", "stage2", "project", (72, 320, 1, 1)),
        ("mobilew-122222-155400", "final_expand", "conv", (1280, 360, 1, 1)),
        ("onnxw-151122-023231", "final_expand", "conv", (1280, 448, 1, 1)),
        ("onnxw-333333-023231", "stage2", "reduce", (120, 64, 1, 1)),
        ("onnxw-333333-023231", "stage2", "conv", (120, 120, 7, 7)),
    ],
)
def test_shapes_are_those_of_published_checkpoints(name: str, stage: str, layer: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        built = Stage.elastic(parse_space(name).stages[stage], DEPLOY)
    assert tuple(built.get_parameter(f"blocks.0.layers.{layer}.convs.0.weight").shape) == shape


def test_later_blocks_read_the_window_alone() -> None:
    with torch.device("meta"):
        built = Stage.elastic(parse_space("mobilew-122222-000000").stages["stage2"], DEPLOY)
    assert tuple(built.get_parameter("blocks.1.layers.expand.convs.0.weight").shape) == (256, 32, 1, 1)


def test_dropout_acts_in_training_on_the_classifiers_input() -> None:
    network = Supernet(parse_space("digits-000-000"))
    network.activate_min()
    x = torch.randn(4, 3, 24, 24)
    network.train()
    assert not torch.equal(network(x), torch.zeros(4, 10))
    network.dropout = 0.5
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))
        network.dropout = 1.0
        bias = network.get_parameter("stages.logits.blocks.0.layers.linear.convs.0.bias")
        torch.testing.assert_close(network(x), bias.expand(4, -1))


@pytest.mark.parametrize(("size", "resolution"), [(24, 32), (32, 24), (24, 24)])
def test_images_are_resized_bicubically(size: int, resolution: int) -> None:
    x = torch.randn(2, 3, size, size)
    expected = nn.functional.interpolate(x, size=(resolution, resolution), mode="bicubic", align_corners=False)
    assert torch.equal(resize(x, resolution), x if size == resolution else expected)
    network = Supernet(parse_space("digits-000-000")).eval()
    network.resolution = resolution
    with torch.no_grad():
        assert torch.equal(network(x), network(resize(x, resolution)))


@torch.no_grad()
def test_one_image_alone_gives_what_it_gives_in_a_batch(grown: Make, images: Images) -> None:
    supernet = grown(parse_space("digits-012-010"))
    supernet.activate_min()
    x = images(3, 24)
    alone = torch.cat([supernet(image[None]) for image in x])
    assert alone.shape == (3, 10)
    step = supernet.get_parameter("stages.logits.blocks.0.layers.linear.activation.output_quantizer.scale")
    assert (alone - supernet(x)).abs().max() <= 20 * step


def test_state_round_trip_keeps_the_function(grown: Make) -> None:
    member: SpaceMember = parse_space("digits-012-010")
    source, target = grown(member), Supernet(member).eval()
    target.load_state_dict(source.state_dict())
    set_quant(target, True)
    source.activate_max()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(target(x), source(x))
