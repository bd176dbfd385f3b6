import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spaceevo.errors import CheckpointError, ConfigError
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.deployable import make_deployable
from spaceevo.nn.evaluate import calibrate_subnet
from spaceevo.nn.models import create_model
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import quantizers, set_quant
from spaceevo.quant.program import execute
from spaceevo.runtimes.onnx.runtime import OnnxRuntime
from spaceevo.runtimes.onnx.writer import to_onnx
from spaceevo.space.cost import subnet_cost
from spaceevo.space.published import published_model

ONNX = OnnxRuntime()

SMALL = """
model: {name: tiny@test, supernet: spaceevo@test}
space: digits-012-010
"""


@pytest.fixture(autouse=True)
def small_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spaceevo.space.description import parse_space

    folder = tmp_path / "model"
    folder.mkdir()
    smallest = parse_space("digits-012-010").smallest
    (folder / "spaceevo@test.yaml").write_text(SMALL.replace("tiny@test", "spaceevo@test"))
    (folder / "tiny@test.yaml").write_text(SMALL + f"subnet: {smallest}\n")
    monkeypatch.setenv("SPACEEVO_CONF", str(tmp_path))


def test_published_networks_have_their_size() -> None:
    with torch.device("meta"):
        network = create_model("SEQnet@vnni-A0", quant="published")
    model = published_model("SEQnet@vnni-A0")
    assert model.spec is not None
    assert network.resolution == model.spec.resolution
    weights = sum(value.numel() for value in network.parameters())
    sites = sum(name.endswith("weight_quantizer") for name in quantizers(network))
    # A scale of the weight, scale and offset of the activation are counted at every convolution.
    assert sum(q.scale.numel() for q in quantizers(network).values()) == 2 * sites
    assert weights / 1e6 == pytest.approx(subnet_cost(model.member, model.spec).mparams, abs=1e-6)


def test_unknown_names_are_told() -> None:
    with pytest.raises(ConfigError, match="unknown model 'SEQnet@vnni-B0'; allowed: .*SEQnet@vnni-A0"):
        create_model("SEQnet@vnni-B0")


@torch.no_grad()
def test_weights_of_a_subnet_and_of_its_supernet(tmp_path: Path) -> None:
    supernet = create_model("spaceevo@test")
    assert isinstance(supernet, Supernet)
    images = torch.randn(4, 3, 24, 24)
    spec = supernet.member.smallest
    supernet.activate(spec)
    set_quant(supernet, True)
    supernet(images)
    subnet = supernet.extract(spec)
    expected = subnet(images)
    for name, module in (("supernet", supernet), ("subnet", subnet)):
        save_checkpoint(tmp_path / f"{name}.pth", module, CheckpointMeta(quant="deploy"))
        network = create_model("tiny@test", tmp_path / f"{name}.pth")
        assert isinstance(network, Network)
        assert torch.equal(network(images), expected)
    with pytest.raises(CheckpointError, match="trained under quant=deploy, not published"):
        create_model("tiny@test", tmp_path / "subnet.pth", quant="published")


@torch.no_grad()
@pytest.mark.parametrize("whole", [True, False], ids=["supernet", "subnet"])
def test_a_network_has_the_classes_of_its_weights(tmp_path: Path, whole: bool) -> None:
    """As finetuning leaves them: 37 here, where the superspace has 10."""
    model = published_model("tiny@test")
    space = model.member
    assert model.spec is not None
    member = space.superspace.with_classes(37).member(space.blocks, space.windows)
    supernet = Supernet(member)
    source = supernet if whole else supernet.extract(model.spec)
    save_checkpoint(tmp_path / "x.pth", source, CheckpointMeta(quant="off"))
    images = torch.randn(2, 3, 24, 24)
    found = create_model("tiny@test", tmp_path / "x.pth")(images)
    assert found.shape == (2, 37)
    assert torch.equal(found, supernet.eval().extract(model.spec)(images))
    if whole:
        assert create_model("spaceevo@test", tmp_path / "x.pth")(images).shape == (2, 37)


@torch.no_grad()
def test_fp32_weights_leave_quantisers_off(tmp_path: Path) -> None:
    network = create_model("tiny@test")
    images = torch.randn(4, 3, 24, 24)
    save_checkpoint(tmp_path / "fp32.pth", network, CheckpointMeta(quant="off"))
    again = create_model("tiny@test", tmp_path / "fp32.pth")
    assert torch.equal(again(images), network(images))
    assert not any(quantizer.is_on for quantizer in quantizers(again).values())


def test_broken_weights_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="x.safetensors is not a readable safetensors file"):
        create_model("tiny@test", tmp_path / "x.safetensors")


@pytest.mark.slow
@torch.no_grad()
def test_released_weights_can_be_deployed(reference: Path, tmp_path: Path) -> None:
    """A golden INT8 supernet of the published system, from its file to an integer program."""
    script, path = reference / "golden" / "released_checkpoint.py", tmp_path / "lsq.pth"
    subprocess.run([sys.executable, script, "spaceevo@pixel4-tiny", path], check=True)
    supernet = create_model("spaceevo@pixel4-tiny", path)
    assert isinstance(supernet, Supernet)
    assert supernet.scheme.name == "published"
    assert any(quantizer.is_on for quantizer in quantizers(supernet).values())
    spec, images = supernet.member.smallest, torch.randn(8, 3, 160, 160)
    calibrate_subnet(supernet, spec, [images])
    deployable, calibrated = make_deployable(supernet.extract(spec), images)
    program = to_program(deployable, (3, spec.resolution, spec.resolution))
    assert 0 < len(calibrated) < len(program.tensors)
    # Never trained, it amplifies every rounding, so that no logits are compared.
    assert torch.isfinite(execute(program, images)).all()
    assert not ONNX.float_ops(to_onnx(program).SerializeToString())
