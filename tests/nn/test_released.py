"""Released checkpoints: networks against outputs of the published system, every form of file, every fault."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import spaceevo
from spaceevo.errors import CheckpointError
from spaceevo.nn.block import Block
from spaceevo.nn.loading import read_released
from spaceevo.nn.released import _candidates, _renamer
from spaceevo.nn.stage import Stage
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.prepare import quantizers, set_quant
from spaceevo.quant.quantizer import PUBLISHED
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.spec import BlockSpec
from spaceevo.space.superspace import Superspace
from tests.nn.conftest import SEARCHED, TYPES
from tests.nn.published import HEADS, LAYERS, published, trained

NETS = ["spaceevo@pixel4-tiny", "spaceevo@vnni-large"]


class Settings:
    """Stands for the settings object of a foreign class in released files."""


class Golden(NamedTuple):
    """A published network: how to rebuild it, what it gives, our supernet with its weights."""

    rebuilt: ModuleType
    values: dict[str, Any]
    supernet: Supernet
    path: Path

    def spec(self, name: str) -> SubnetSpec:
        return SubnetSpec.parse(next(case["subnet"] for case in self.values["cases"] if case["name"] == name))


@pytest.fixture(scope="module")
def rebuilt(reference: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("rebuilt", reference / "golden" / "released_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=NETS)
def golden(
    request: pytest.FixtureRequest, reference: Path, rebuilt: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Golden:
    folder = reference / "golden" / "nets"
    values = json.loads((folder / f"{request.param}.json").read_text())
    path = tmp_path_factory.mktemp("released") / "lsq.pth"
    tensors = {f"module.{key}": value for key, value in rebuilt.state_dict(folder, request.param).items()}
    torch.save({"state_dict": tensors, "epoch": 50, "optimizer": {}, "args": Settings()}, path)
    supernet = Supernet(spaceevo.parse_space(values["encoding"]), quant="published").eval()
    loaded = spaceevo.load_released(supernet, path)
    assert loaded.epochs == 50
    assert loaded.quantised == sum(key.endswith(".sw") for key in tensors) - sum(
        k.endswith(".sw") for k in loaded.unused
    )
    assert len(loaded.unused) == (18 if request.param == "spaceevo@pixel4-tiny" else 0)
    return Golden(rebuilt, values, supernet, path)


@torch.no_grad()
def test_logits_are_the_published_ones(golden: Golden) -> None:
    set_quant(golden.supernet, False)
    for case in golden.values["cases"]:
        golden.supernet.activate(golden.spec(case["name"]))
        expected = torch.tensor(case["logits"])
        logits = golden.supernet(golden.rebuilt.images(golden.values["image_seed"], 4, 224))
        torch.testing.assert_close(logits[:, : expected.shape[1]], expected, atol=1e-4, rtol=0)
        assert logits.argmax(1).tolist() == case["argmax"]
        cost = spaceevo.subnet_cost(golden.supernet.member, golden.supernet.spec)
        assert cost.mmacs == pytest.approx(case["mflops"], abs=6e-4)
        assert cost.mparams == pytest.approx(case["mparams"], abs=1.5e-4)


@torch.no_grad()
def test_int8_stages_are_the_published_ones(golden: Golden) -> None:
    set_quant(golden.supernet, True)
    for case in golden.values["stages_int8"]:
        golden.supernet.activate(golden.spec(case["subnet_name"]))
        images = golden.rebuilt.images(case["input_seed"], 2, case["hw"], case["cin"]).abs()
        output = golden.supernet.stages[case["stage"]](images)
        expected, tolerance = torch.tensor(case["output_head"]), 3 * case["rel_change_at_1e6_perturbation"] + 1e-3
        assert list(output.shape) == case["output_shape"]
        assert output.norm().item() == pytest.approx(case["output_norm"], rel=tolerance)
        assert (output.flatten()[: len(expected)] - expected).norm() <= tolerance * expected.norm(), case["stage"]


# ---- other forms, written from our networks by the names of FACTS


def assert_equal_states(one: nn.Module, other: nn.Module) -> None:
    own, others = one.state_dict(), other.state_dict()
    assert own.keys() == others.keys()
    assert [key for key in own if not torch.equal(own[key], others[key])] == []


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("extracted", [False, True], ids=["elastic", "extracted"])
def test_networks_of_every_block_type(zoo: Superspace, tmp_path: Path, kind: str, extracted: bool) -> None:
    member = zoo.member((SEARCHED.index(kind),) * 3, (1, 0, 1))
    supernets = [trained(Supernet(member, "published")), Supernet(member, "published")]
    networks = [net.extract(member.largest) for net in supernets] if extracted else list[Network](supernets)
    path = tmp_path / "lsq.pth"
    state = published(networks[0], extracted=extracted)
    assert len(state) == len(networks[0].state_dict()) - len(quantizers(networks[0]))
    torch.save({"state_dict": state, "epoch": 3}, path)
    loaded = spaceevo.load_released(networks[1], path)
    assert_equal_states(*networks)
    assert loaded.epochs == 3
    assert loaded.quantised == sum(bool(q.initialized) for q in quantizers(networks[0]).values()) / 2


GOLDEN_BLOCKS = [(name, stride) for name in LAYERS for stride in ((1,) if name in HEADS else (1, 2))]


@pytest.mark.parametrize(("name", "stride"), GOLDEN_BLOCKS)
def test_names_after_extraction(reference: Path, name: str, stride: int) -> None:
    """Every published name of an extracted block has a place in ours, and every place of ours a name."""
    golden = torch.load(reference / "golden" / "blocks" / f"{name}Block_s{stride}.pt", weights_only=True)
    for case in golden["cases"]:
        sizes = (case["cin"], case["width"], case["kernel_size"], case["expand_ratio"])
        block = Block([BlockSpec(name, *sizes, stride, golden["activation"] or "relu")], PUBLISHED)
        network = Network({"stage1": Stage([block])}, 8, None)
        own, rename = network.state_dict(), _renamer(network)
        found = set()
        for key in case["static_keys"]:
            site, _, leaf = f"stages.stage1.0.{key}".rpartition(".")
            found |= {name for name in _candidates(rename(site), leaf) if name in own} or {key}
        assert found == {key for key in own if not key.endswith(".initialized")}


def test_fp32_files_leave_the_quantisers_to_start(zoo: Superspace, tmp_path: Path) -> None:
    """With scalars at (1, 1, 0), or without any."""
    member = zoo.member((0, 0, 0), (0, 0, 0))
    source, path = trained(Supernet(member, "published"), scheme_on=False), tmp_path / "checkpoint.pth"
    state = published(source)
    scalars = [key for key in state if key.rpartition(".")[2] in ("sw", "sa", "beta")]
    for content in (state, {key: value for key, value in state.items() if key not in scalars}):
        torch.save({"state_dict": content}, path)
        assert not read_released(path).int8
        target = Supernet(member, "published")
        loaded = spaceevo.load_released(target, path)
        assert (loaded.epochs, loaded.quantised) == (None, 0)
        assert_equal_states(source, target)
        assert not any(quantizer.initialized for quantizer in quantizers(target).values())


def test_a_network_under_deploy_takes_the_weights_alone(zoo: Superspace, tmp_path: Path) -> None:
    member = zoo.member((0, 0, 0), (0, 0, 0))
    source, path = trained(Supernet(member, "published")), tmp_path / "lsq.pth"
    torch.save({"state_dict": published(source)}, path)
    target = Supernet(member, "deploy").eval()
    assert spaceevo.load_released(target, path).quantised == 0
    assert not any(q.initialized for q in quantizers(target).values() if list(q.parameters()))
    source.activate_min()
    target.activate_min()
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(source(x), target(x))


@pytest.mark.parametrize("conv", ["", "conv."])
def test_students(zoo: Superspace, tmp_path: Path, conv: str) -> None:
    space, path = zoo.stage_space("stage2", SEARCHED.index("MobileNetV3K3Res")), tmp_path / "lsq.pth"
    source, target = (BlockStudent(space, (11, 13), PUBLISHED) for _ in range(2))
    state = published(trained(source))
    assert "in_proj.weight" in state
    assert "in_proj.sa" in state
    renamed = {key.replace("_proj.", f"_proj.{conv}"): value for key, value in state.items()}
    torch.save({"model": renamed, "epoch": 0, "optimizer": {}, "lr_schduler": {}}, path)
    assert read_released(path).kind == "block"
    assert spaceevo.load_released(target, path).epochs == 1
    assert_equal_states(source, target)


# ---- faults


def refused(network: nn.Module, path: Path) -> str:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        spaceevo.load_released(network, path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_checkpoints_of_other_networks_say_what_differs(zoo: Superspace, tmp_path: Path) -> None:
    path, index = tmp_path / "lsq.pth", SEARCHED.index("ResNet")
    torch.save({"state_dict": published(Supernet(zoo.member((index,) * 3, (0, 0, 0)), "published"))}, path)
    wider = refused(Supernet(zoo.member((index,) * 3, (1, 0, 0)), "published"), path)
    assert (
        f"{path} belongs to another network: stages.stage1.blocks.0.conv1.conv.weight (72, 16, 1, 1) here (96, 16"
        in wider
    )
    other = refused(Supernet(zoo.member((SEARCHED.index("MobileNetV1"),) * 3, (0, 0, 0)), "published"), path)
    assert "stages.stage1.blocks.0.conv1.conv.weight is not in this network" in other
    assert "in all)" in other
    assert "is not in this network" in refused(BlockStudent(zoo.stage_space("stage2", index), (8, 8), PUBLISHED), path)
    assert "takes no released checkpoint" in refused(nn.Linear(2, 2), path)


def test_missing_tensors_are_named(zoo: Superspace, tmp_path: Path) -> None:
    path, member = tmp_path / "lsq.pth", zoo.member((0, 0, 0), (0, 0, 0))
    state = published(Supernet(member, "published"))
    del state["stages.logits.blocks.0.linear.bias"]
    torch.save({"state_dict": state}, path)
    text = refused(Supernet(member, "published"), path)
    assert "stages.logits.blocks.0.layers.linear.convs.0.bias is missing" in text


def test_unknown_forms_are_named(tmp_path: Path, zoo: Superspace) -> None:
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {"layer1.weight": torch.ones(1)}}, path)
    text = refused(Supernet(zoo.member((0, 0, 0), (0, 0, 0))), path)
    assert (
        "is in no known format; expected names that start with stages., stage., _conv_stem.; it has layer1.weight"
        in text
    )
