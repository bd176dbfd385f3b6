"""Checkpoints of single subnets: they stand alone and give the supernet's numbers."""

from pathlib import Path
from random import Random

import pytest
import torch

from spaceevo.errors import CheckpointError, EncodingError, MissingArtifactError
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.subnets import read_subnet
from spaceevo.nn.supernet import Network
from spaceevo.quant.quantizer import DEPLOY, quant_scheme
from spaceevo.space.description import parse_space, superspace
from spaceevo.space.encoding import SubnetSpec
from tests.nn.conftest import Make, pictures

DIGITS, MEMBER = superspace("digits"), parse_space("digits-012-010")
CLASSES = tuple("0123456789")


def meta(spec: SubnetSpec, quant: str = "deploy") -> CheckpointMeta:
    return CheckpointMeta(str(MEMBER), str(spec), classes=CLASSES, quant=quant)


@pytest.mark.parametrize("quant", ["deploy", "published", "off"])
def test_a_read_subnet_computes_what_was_saved(grown: Make, tmp_path: Path, quant: str) -> None:
    supernet = grown(MEMBER, quant=quant if quant != "off" else "deploy", int8=quant != "off")
    images = pictures(4, 32)
    for seed in range(3):
        spec = supernet.sample(Random(seed))
        network = supernet.extract(spec).eval()
        expected = network(images)
        save_checkpoint(tmp_path / "subnet.pth", network, meta(spec, quant))
        found = read_subnet(tmp_path / "subnet.pth", DIGITS, "make it")
        assert (found.spec, str(found.member), found.classes, found.quant) == (spec, str(MEMBER), CLASSES, quant)
        with torch.no_grad():
            assert torch.equal(found.network(images), expected)


def test_the_classes_decide_the_classifier(tmp_path: Path) -> None:
    odd_even = DIGITS.with_classes(2).member(MEMBER.blocks, MEMBER.windows)
    network = Network.fixed(odd_even, MEMBER.smallest, DEPLOY)
    told = CheckpointMeta(str(odd_even), str(MEMBER.smallest), classes=("even", "odd"), quant="off")
    save_checkpoint(tmp_path / "subnet.pth", network, told)
    found = read_subnet(tmp_path / "subnet.pth", DIGITS, "make it")
    assert found.network(torch.zeros(1, 3, 24, 24)).shape == (1, 2)
    assert found.member.superspace.num_classes == 2
    assert DIGITS.num_classes == 10


def test_a_fixed_network_has_the_tensors_of_an_extracted_one(grown: Make) -> None:
    supernet = grown(MEMBER)
    for spec in (MEMBER.smallest, MEMBER.largest, supernet.sample(Random(9))):
        fixed = Network.fixed(MEMBER, spec, quant_scheme("deploy")).state_dict()
        extracted = supernet.extract(spec).state_dict()
        assert {k: v.shape for k, v in fixed.items()} == {k: v.shape for k, v in extracted.items()}


def test_faults_are_named(grown: Make, tmp_path: Path) -> None:
    path, network = tmp_path / "subnet.pth", grown(MEMBER).extract(MEMBER.smallest)
    with pytest.raises(MissingArtifactError, match="make it"):
        read_subnet(path, DIGITS, "make it")
    save_checkpoint(path, network, CheckpointMeta(space=str(MEMBER)))
    with pytest.raises(CheckpointError, match="not a subnet's checkpoint: it lacks subnet, classes, quant"):
        read_subnet(path, DIGITS, "make it")
    save_checkpoint(path, network, meta(MEMBER.largest))
    with pytest.raises(CheckpointError, match="belongs to another network"):
        read_subnet(path, DIGITS, "make it")
    save_checkpoint(path, network, meta(MEMBER.smallest))
    with pytest.raises(EncodingError, match="not of superspace onnxw"):
        read_subnet(path, superspace("onnxw"), "make it")
    assert read_checkpoint(path, "subnet").meta.classes == CLASSES
