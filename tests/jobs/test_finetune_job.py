"""Job finetune: a new classifier on the old body, and what starts where; nothing is trained here."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spaceevo.artifacts import Front, FrontSubnet, Layout
from spaceevo.errors import CheckpointError, ConfigError, MissingArtifactError
from spaceevo.jobs.runner import make_job
from spaceevo.lit.finetune import FinetuneModule
from spaceevo.lit.module import MultiPassModule
from spaceevo.lit.training import Figures, Trainee, Training
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.loading import load_released
from spaceevo.nn.subnets import read_subnet
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.prepare import quantizers, set_quant
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.space.description import superspace
from spaceevo.space.encoding import SubnetSpec
from spaceevo.stages.job import Outcome
from tests.jobs.conftest import CLASSES, Compose
from tests.nn.published import published

DIGITS = superspace("digits")
MEMBER = DIGITS.member((0, 1, 2), (0, 1, 0))
SPEC = MEMBER.smallest


@dataclass
class Made:
    """Holds what a job would have trained, and what it tells."""

    outcome: Outcome
    trainee: Trainee
    module: FinetuneModule

    @property
    def network(self) -> Network:
        network = self.module.classifier
        assert isinstance(network, Network)
        return network


Finetune = Callable[..., Made]


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(8, 3, 24, 24)


@pytest.fixture
def start(tmp_path: Path, pixels: Tensor) -> Callable[[str], Path]:
    """Write the checkpoint of a subnet, its statistics and scales those of random images."""

    def write(quant: str) -> Path:
        found = Network.fixed(MEMBER, SPEC, quant_scheme("deploy" if quant == "off" else quant))
        set_quant(found, quant != "off")
        found(pixels)
        meta = CheckpointMeta(str(MEMBER), str(SPEC), classes=tuple("0123456789"), quant=quant)
        save_checkpoint(tmp_path / "start.pth", found.eval(), meta)
        return tmp_path / "start.pth"

    return write


@pytest.fixture
def finetune(compose: Compose, images: Path, monkeypatch: pytest.MonkeyPatch) -> Finetune:
    """Run the job up to the training."""
    kept: list[tuple[Trainee, MultiPassModule]] = []

    def fit(
        training: Training,
        trainee: Trainee,
        make_module: Callable[[], MultiPassModule],
        figures: Callable[[MultiPassModule], Figures],
        *,
        anew: bool = False,
    ) -> Figures:
        kept.append((trainee, make_module()))
        return {"top1": 50.0}

    monkeypatch.setattr(Training, "fit", fit)

    def make(*overrides: str) -> Made:
        given = ["+stage=finetune", "superspace=digits", f"data.root={images}", "data.holdout=4", *overrides]
        outcome = make_job(compose(*given)).work()
        trainee, module = kept[-1]
        assert isinstance(module, FinetuneModule)
        return Made(outcome, trainee, module)

    return make


def of_classifier(keys: Iterable[str]) -> set[str]:
    return {key for key in keys if key.startswith("stages.logits.")}


def test_random_weights_are_the_seed_s_and_no_file_s(finetune: Finetune) -> None:
    asked = (f"space={MEMBER}", f"subnet='{SPEC}'", "weights=random", "quant=off")
    one, again, other = (finetune(*asked, f"seed={seed}") for seed in (0, 0, 1))
    assert one.trainee.identity["weights"] == "random"
    assert "weights=" not in one.outcome.next_command
    states = [made.network.state_dict() for made in (one, again, other)]
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items())
    trained = [key for key in states[0] if key.endswith("convs.0.weight")]
    assert len(trained) > 5
    assert not any(torch.equal(states[0][key], states[2][key]) for key in trained)
    assert not any(quantizer.is_on for quantizer in quantizers(one.network).values())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("quant=off", "checkpoint=here.pth"), "weights = random with checkpoint = here.pth; leave one of them out"),
        (("quant=deploy",), "weights = random is trained in fp32 first: set quant=off; then checkpoint=…"),
    ],
)
def test_random_weights_lie_in_no_file_and_are_trained_in_fp32_first(
    words: tuple[str, ...], told: str, finetune: Finetune
) -> None:
    with pytest.raises(ConfigError, match=told):
        finetune(f"space={MEMBER}", f"subnet='{SPEC}'", "weights=random", *words)


@pytest.mark.parametrize("quant", ["deploy", "published", "off"])
def test_the_body_is_the_old_one_and_the_classifier_is_new(
    quant: str, pixels: Tensor, start: Callable[[str], Path], finetune: Finetune
) -> None:
    file = start(quant)
    found = finetune(f"quant={quant}", f"checkpoint={file}").network
    old = read_subnet(file, DIGITS, "").network.state_dict()
    assert found(pixels).shape == (8, len(CLASSES))
    new = found.state_dict()
    assert new.keys() == old.keys()
    body = new.keys() - of_classifier(new)
    weights = {key for key in body if key.endswith("weight")}
    assert len(weights) > 5
    assert all(torch.equal(new[key], old[key]) for key in weights)
    assert all(q.is_on == (quant != "off") for q in quantizers(found).values())


def test_the_body_computes_what_it_did(pixels: Tensor, start: Callable[[str], Path], finetune: Finetune) -> None:
    file = start("deploy")
    features = []
    for network in (read_subnet(file, DIGITS, "").network, finetune(f"checkpoint={file}").network.eval()):
        assert network.image_quantizer is not None
        x = network.image_quantizer(pixels)
        for stage in list(network.stages.values())[:-1]:
            x = stage(x)
        features.append(x)
    assert torch.equal(*features)


def test_int8_may_start_from_fp32_weights(pixels: Tensor, start: Callable[[str], Path], finetune: Finetune) -> None:
    file = start("off")
    network = finetune(f"checkpoint={file}").network
    weight = "stages.first_conv.blocks.0.layers.conv.convs.0.weight"
    assert torch.equal(network.state_dict()[weight], read_subnet(file, DIGITS, "").network.state_dict()[weight])
    learned = [q for q in quantizers(network).values() if isinstance(q.scale, torch.nn.Parameter)]
    assert learned
    assert not any(q.initialized for q in learned)
    network.eval()(pixels)
    assert all(q.initialized for q in learned)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_frozen_body_is_all_but_the_classifier(
    freeze: bool, start: Callable[[str], Path], finetune: Finetune
) -> None:
    made = finetune(f"checkpoint={start('deploy')}", f"recipe.finetune.freeze_body={freeze}")
    trained = {name for name, parameter in made.network.named_parameters() if parameter.requires_grad}
    assert of_classifier(trained)
    assert bool(trained - of_classifier(trained)) is not freeze


def test_what_was_trained_is_written_down(
    images: Path, tmp_path: Path, start: Callable[[str], Path], finetune: Finetune
) -> None:
    made = finetune(f"checkpoint={start('deploy')}")
    target = made.trainee.target
    assert target.is_relative_to(tmp_path / "runs/checkpoints/finetune/images")
    assert made.trainee.meta.classes == CLASSES
    assert SubnetSpec.parse(made.trainee.meta.subnet) == SPEC
    words = shlex.split(made.outcome.next_command)
    assert {"+stage=export", f"checkpoint={target}", f"data.root={images}", "quant=deploy"} < set(words)
    save_checkpoint(target, made.network, made.trainee.meta)
    assert read_subnet(target, DIGITS, "").member.superspace.num_classes == len(CLASSES)


def test_other_images_of_the_same_name_are_another_file(
    images: Path, tmp_path: Path, start: Callable[[str], Path], finetune: Finetune
) -> None:
    file = start("deploy")
    other = tmp_path / "other/images"
    shutil.copytree(images, other)
    found = [finetune(f"checkpoint={file}").trainee.target]
    found.append(finetune(f"checkpoint={file}", f"data.root={other}").trainee.target)
    (other / "train/cat/0.png").unlink()
    found.append(finetune(f"checkpoint={file}", f"data.root={other}").trainee.target)
    assert found[0] == found[1]
    assert found[2] != found[0]
    assert {path.parents[1].name for path in found} == {"images"}


def test_each_job_of_a_sweep_has_a_file_of_its_own(start: Callable[[str], Path], finetune: Finetune) -> None:
    given = [f"checkpoint={start('deploy')}", "hydra.mode=MULTIRUN"]
    found = [finetune(*given, f"stage.folder=job{job}", f"seed={job}").trainee.target for job in (0, 1)]
    assert found[0] != found[1]
    assert [path.parent.name for path in found] == ["job0", "job1"]


def write_front(root: Path, file: Path, quant: str) -> None:
    """What a subnet search leaves, with one subnet."""
    row = FrontSubnet("ort_cpu", str(SPEC), "1", 1.0, None, 50.0, 50.0, 1.0, 1.0, int8_file=str(file))
    front = Front(str(MEMBER), str(SPEC), (row,), (1.0,), {"ort_cpu": (1.0,)}, {"ort_cpu": {"1": str(SPEC)}})
    front.write(Layout(root / "runs/checkpoints", quant).subnet_search(str(MEMBER)) / "front.json")


def test_faults_are_named(tmp_path: Path, start: Callable[[str], Path], finetune: Finetune) -> None:
    space = f"space={MEMBER}"
    with pytest.raises(MissingArtifactError, match=r"\+stage=space_search"):
        finetune()
    with pytest.raises(MissingArtifactError, match=r"\+stage=subnet_search superspace=digits .*space=digits-012-010"):
        finetune(space)
    file = start("published")
    with pytest.raises(ConfigError, match="trained under quant=published, not deploy; set quant=published"):
        finetune(f"checkpoint={file}")
    for quant in ("deploy", "published"):
        write_front(tmp_path, file, quant)
    with pytest.raises(MissingArtifactError, match=r"INT8 supernet .* missing.*\+stage=supernet") as caught:
        finetune(space, "subnet=max")
    assert "subnet=" not in str(caught.value).partition("make it with:")[2]
    with pytest.raises(CheckpointError, match=r"^checkpoint = /nowhere\.pth does not exist; set it to"):
        finetune("checkpoint=/nowhere.pth")
    assert finetune(space, "quant=published").trainee.meta.subnet == str(SPEC)


@pytest.mark.parametrize(("quant", "asked"), [("off", "min"), ("deploy", "max")])
def test_a_subnet_that_the_search_did_not_keep_is_taken_from_its_supernet(
    tmp_path: Path, pixels: Tensor, finetune: Finetune, quant: str, asked: str
) -> None:
    supernet = Supernet(MEMBER)
    set_quant(supernet, quant != "off")
    supernet.train()(pixels)
    file = Layout(tmp_path / "runs/checkpoints", quant).supernet(str(MEMBER), quant != "off")
    save_checkpoint(file, supernet, CheckpointMeta(space=str(MEMBER), quant=quant))
    found = finetune(f"space={MEMBER}", f"quant={quant}", f"subnet={asked}")
    spec = {"min": MEMBER.smallest, "max": MEMBER.largest}[asked]
    assert found.trainee.meta.subnet == str(spec)
    old = supernet.eval().extract(spec).state_dict()
    new = found.network.state_dict()
    assert all(torch.equal(new[key], old[key]) for key in new.keys() - of_classifier(new) if key.endswith("weight"))


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The word that names a folder of configs, which know of a published subnet and its supernet."""
    conf = tmp_path_factory.mktemp("conf")
    (conf / "model").mkdir()
    head = "# @package _global_\ndefaults:\n  - override /superspace: digits\n\n"
    names = f"model: {{name: tiny@digits, supernet: spaceevo@digits}}\nspace: {MEMBER}\nsubnet: {SPEC}\n"
    (conf / "model/tiny@digits.yaml").write_text(head + names)
    return f"hydra.searchpath=[file://{conf}]"


@pytest.fixture
def released(tmp_path: Path, pixels: Tensor) -> Callable[[str], Path]:
    """Write a supernet's file as it was released, at its published path."""

    def write(quant: str) -> Path:
        supernet = Supernet(MEMBER, "published").train()
        set_quant(supernet, quant != "off")
        for spec in (MEMBER.largest, MEMBER.smallest):
            supernet.activate(spec)
            supernet(pixels)
        file = Layout(tmp_path / "runs/checkpoints").released_supernet("spaceevo@digits", quant != "off")
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": published(supernet), "epoch": 50}, file)
        return file

    return write


@pytest.mark.parametrize(
    ("weights", "quant", "named"),
    [
        ("published", "published", True),
        ("off", "off", False),
        ("off", "deploy", True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("off", "off", True), ("published", "off", True))),
        pytest.param("published", "published", False, marks=pytest.mark.slow),
    ],
)
def test_a_published_subnet_is_taken_from_its_released_supernet(
    search: str, released: Callable[[str], Path], finetune: Finetune, weights: str, quant: str, named: bool
) -> None:
    """INT8, fp32, INT8 from fp32 weights, and fp32 from those of INT8; without a name, the file of the precision."""
    file = released(weights)
    given = [f"checkpoint={file}"] if named else []
    made = finetune(search, "model=tiny@digits", f"quant={quant}", *given)
    supernet = Supernet(MEMBER, "published")
    load_released(supernet, file)
    old, new = supernet.eval().extract(SPEC).state_dict(), made.network.state_dict()
    body = {key for key in new.keys() - of_classifier(new) if key.endswith(".weight") and "norm" not in key}
    assert len(body) > 5
    assert all(torch.equal(new[key], old[key]) for key in body)
    scales = {key for key in new.keys() - of_classifier(new) if key.endswith("quantizer.scale")}
    taken = [torch.equal(new[key].reshape(-1), old[key].reshape(-1)) for key in scales if key in old]
    assert len(taken) > 5
    assert all(taken) == (quant == "published") or weights == "off"
    assert made.trainee.meta.subnet == str(SPEC)
    assert made.trainee.meta.quant == quant
    assert made.network(torch.randn(2, 3, 24, 24)).shape == (2, len(CLASSES))


def test_a_subnet_of_a_supernet_gets_its_own_statistics(
    search: str, released: Callable[[str], Path], finetune: Finetune
) -> None:
    """A frozen body keeps them, so they are those of the new images."""
    file = released("off")
    found = finetune(search, "model=tiny@digits", "quant=off", f"checkpoint={file}").network
    supernet = Supernet(MEMBER, "published")
    load_released(supernet, file)
    name = "stages.first_conv.blocks.0.layers.conv.norm.running_mean"
    assert not torch.allclose(found.state_dict()[name], supernet.extract(SPEC).state_dict()[name])


def test_a_missing_released_file_says_where_it_may_lie(
    search: str, released: Callable[[str], Path], finetune: Finetune
) -> None:
    file = released("off")
    where = f"name a released file by checkpoint=…, put it at {file.parent}/lsq.pth, or make it with: .*stage=supernet"
    with pytest.raises(MissingArtifactError, match=where) as told:
        finetune(search, "model=tiny@digits", "quant=published")
    assert "subnet=" not in str(told.value).partition("make it with:")[2]


def test_other_preprocessing_is_the_finetuned_network_s_own(start: Callable[[str], Path], finetune: Finetune) -> None:
    given, mean = f"checkpoint={start('deploy')}", [0.5, 0.4, 0.3]
    meta = finetune(given, f"data.transform.mean={mean}").trainee.meta
    assert (meta.classes, meta.transform["mean"], meta.transform["size"]) == (CLASSES, mean, 32)
    with pytest.raises(ConfigError, match="data.transform.size is 16; allowed: at least 24, the largest resolution"):
        finetune(given, "data.transform.size=16")
