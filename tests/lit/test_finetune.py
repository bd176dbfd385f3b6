"""Finetuning a subnet: a new classifier on the old body, frozen or not, and what starts where."""

import math
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from spaceevo.lit.base import QuantConfig, TrainingRun
from torch import Tensor, nn

from spaceevo.artifacts import Layout, write_json
from spaceevo.errors import ConfigError, MissingArtifactError
from spaceevo.lit.finetune import FinetuneModule, train_subnet
from spaceevo.lit.module import Recipe
from spaceevo.nn.subnets import read_subnet, save_subnet
from spaceevo.nn.supernet import Network
from spaceevo.quant.prepare import quantizers, set_quant
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.space.description import superspace
from spaceevo.space.encoding import SubnetSpec

DIGITS = superspace("digits")
MEMBER = DIGITS.member((0, 1, 2), (0, 1, 0))
SPEC = MEMBER.smallest
SGD = partial(torch.optim.SGD, lr=0.1)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(8, 3, 24, 24)


def network(quant: str, images: Tensor) -> Network:
    found = Network.fixed(MEMBER, SPEC, quant_scheme("deploy" if quant == "off" else quant))
    set_quant(found, quant != "off")
    found(images)  # in training mode: statistics and scales of these images
    return found.eval()


class Run(TrainingRun):
    """A run that trains nothing: it keeps the module that would be."""

    module: FinetuneModule
    meta: dict[str, object]

    def fit(self, name, target, make_module, figures, inputs, meta):  # type: ignore[no-untyped-def]
        module = make_module()
        assert isinstance(module, FinetuneModule)
        self.module, self.meta, self.made[name] = module, dict(meta), target
        return {"top1": 50.0}


def run(root: Path, quant: str = "deploy", said: list[str] | None = None) -> Run:
    data: Any = SimpleNamespace(setup=lambda: None, classes=("even", "odd"), root=Path("data/odd_even"))
    unused: Any = None
    said = [] if said is None else said
    return Run(
        data,
        DIGITS,
        unused,
        QuantConfig(quant),
        Layout(root),
        root,
        0,
        unused,
        {},
        said.append,
    )


def classifier_keys(net: nn.Module) -> list[str]:
    return [key for key in net.state_dict() if key.startswith("stages.logits.")]


@pytest.mark.parametrize("quant", ["deploy", "published", "off"])
def test_the_body_is_the_old_one_and_the_classifier_is_new(quant: str, images: Tensor, tmp_path: Path) -> None:
    start = network(quant, images)
    save_subnet(tmp_path / "start.pth", start, MEMBER, SPEC, "0123456789", quant)
    made = run(tmp_path, quant)
    train_subnet(made, Recipe(1, SGD), str(tmp_path / "start.pth"), None, None)
    found, old = made.module.classifier, start.state_dict()
    assert isinstance(found, Network)
    assert found(images).shape == (8, 2)
    new = set(classifier_keys(found))
    body = {key: value for key, value in found.state_dict().items() if key not in new}
    assert body.keys() == old.keys() - set(classifier_keys(start))
    assert all(q.is_on == (quant != "off") for q in quantizers(found).values())


def test_the_body_computes_what_it_did(images: Tensor, tmp_path: Path) -> None:
    start = network("deploy", images)
    save_subnet(tmp_path / "start.pth", start, MEMBER, SPEC, "0123456789", "deploy")
    made = run(tmp_path)
    train_subnet(made, Recipe(1, SGD), str(tmp_path / "start.pth"), None, None)
    features = []
    for net in (start, made.module.classifier.eval()):
        assert isinstance(net, Network)
        assert net.image_quantizer is not None
        x = net.image_quantizer(images)
        for stage in list(net.stages.values())[:-1]:
            x = stage(x)
        features.append(x)
    assert torch.equal(*features)


def test_int8_may_start_from_fp32_weights(images: Tensor, tmp_path: Path) -> None:
    start = network("off", images)
    save_subnet(tmp_path / "start.pth", start, MEMBER, SPEC, "0123456789", "off")
    made = run(tmp_path, "deploy")
    train_subnet(made, Recipe(1, SGD), str(tmp_path / "start.pth"), None, None)
    found = made.module.classifier
    weight = "stages.first_conv.blocks.0.layers.conv.convs.0.weight"
    assert torch.equal(found.state_dict()[weight], start.state_dict()[weight])
    learned = [q for q in quantizers(found).values() if isinstance(q.scale, torch.nn.Parameter)]
    assert not any(q.initialized for q in learned)
    found.eval()(images)
    assert all(q.initialized for q in learned)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_frozen_body_stays_as_it_is(freeze: bool, images: Tensor, tmp_path: Path) -> None:
    save_subnet(tmp_path / "start.pth", network("deploy", images), MEMBER, SPEC, "0123456789", "deploy")
    made = run(tmp_path)
    train_subnet(made, Recipe(1, SGD), str(tmp_path / "start.pth"), None, None, freeze_body=freeze)
    net = made.module.classifier
    before = {key: value.clone() for key, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net.train()
    for _, loss in made.module.passes(images, torch.arange(8) % 2, Random(0)):
        loss.backward()
    optimizer.step()
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed & set(classifier_keys(net))
    assert bool(changed - set(classifier_keys(net))) is not freeze


def test_what_was_trained_is_written_down(images: Tensor, tmp_path: Path) -> None:
    save_subnet(tmp_path / "start.pth", network("deploy", images), MEMBER, SPEC, "0123456789", "deploy")
    said: list[str] = []
    made = run(tmp_path, said=said)
    train_subnet(made, Recipe(1, SGD), str(tmp_path / "start.pth"), None, None)
    (target,) = made.made.values()
    assert made.meta["classes"] == ["even", "odd"]
    assert SubnetSpec.parse(str(made.meta["subnet"])) == SPEC
    assert "+stage=export" in said[-1]
    assert f"checkpoint={target} data.root=data/odd_even quant=deploy" in said[-1]
    net = made.module.classifier
    assert isinstance(net, Network)
    save_subnet(target, net, MEMBER, SPEC, ["even", "odd"], "deploy")
    assert read_subnet(target, DIGITS, "").member.superspace.num_classes == 2


def test_faults_are_named(images: Tensor, tmp_path: Path) -> None:
    recipe = Recipe(1, SGD)
    with pytest.raises(MissingArtifactError, match=r"\+stage=space_search"):
        train_subnet(run(tmp_path), recipe, None, None, None)
    with pytest.raises(MissingArtifactError, match=r"\+stage=subnet_search superspace=digits space=digits-012-010"):
        train_subnet(run(tmp_path), recipe, None, str(MEMBER), None)
    save_subnet(tmp_path / "start.pth", network("published", images), MEMBER, SPEC, "0123456789", "published")
    with pytest.raises(ConfigError, match="trained under quant=published, not deploy; set quant=published"):
        train_subnet(run(tmp_path), recipe, str(tmp_path / "start.pth"), None, None)
    row = {"subnet": str(SPEC), "int8_file": str(tmp_path / "start.pth")}
    write_json(Layout(tmp_path).subnet_search(str(MEMBER)) / "front.json", {"chosen": str(SPEC), "front": [row]})
    with pytest.raises(ConfigError, match="was not extracted by the last search"):
        train_subnet(run(tmp_path), recipe, None, str(MEMBER), str(MEMBER.largest))
    made = run(tmp_path, "published")
    train_subnet(made, recipe, None, str(MEMBER), None)
    assert made.meta["subnet"] == str(SPEC)


@pytest.mark.parametrize(("schedule", "half"), [("linear", 0.5), ("cosine", 0.5), ("linear", 0.25), ("cosine", 0.25)])
def test_schedules_fall_as_they_say(schedule: str, half: float) -> None:
    class Module(FinetuneModule):
        trainer = SimpleNamespace(estimated_stepping_batches=100)  # type: ignore[assignment]

    recipe = Recipe(10, SGD, warmup_epochs=1, schedule=schedule)  # type: ignore[arg-type]
    found = Module(torch.nn.Linear(2, 2), recipe, 0, 0.0).configure_optimizers()
    factor = found["lr_scheduler"].lr_lambdas[0]
    assert factor(0) == pytest.approx(0.001)
    assert factor(100) == pytest.approx(0)
    expected = 1 - half if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * half))
    assert factor(int(100 * half)) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="schedule = square; allowed: cosine, linear"):
        Recipe(1, SGD, schedule="square")  # type: ignore[arg-type]
