"""Job export on a supernet that has seen images but not been trained: what it leaves, and when it works again."""

import json
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from spaceevo.artifacts import Front, FrontSubnet, Layout
from spaceevo.artifacts.progress import PROGRESS_FILE
from spaceevo.errors import ConfigError, EncodingError, ExportError, MissingArtifactError
from spaceevo.export.gate import Figure, Gate
from spaceevo.export.parity import Tolerance
from spaceevo.jobs.words import hydras_words
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.prepare import float_state, quantizers, set_quant
from spaceevo.quant.program_file import load_program
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.runtimes.base import Shape
from spaceevo.runtimes.litert.runtime import LiteRt
from spaceevo.runtimes.onnx.runtime import OnnxRuntime
from spaceevo.runtimes.plain_network import load
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.stages.extraction import Extraction
from tests.stages.conftest import CLASSES, MEMBER, SPACE, Compose, MadeAnew, RunStage, World, nudge

LITERT = LiteRt()
DIGITS = "digits-012-110"
LOOSE = ("recipe.export.min_agreement=80", "recipe.export.max_mean_difference=0.5", "recipe.export.repeats=5")
ANY = ("recipe.export.min_agreement=0", "recipe.export.max_mean_difference=99", "recipe.export.repeats=1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of both schemes."""
    folder = tmp_path_factory.mktemp("digits")
    images = torch.randn(16, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    for scheme in ("deploy", "published"):
        torch.manual_seed(0)
        supernet = Supernet(parse_space(DIGITS), scheme)
        for norm in (module for module in supernet.modules() if isinstance(module, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
        layout = Layout(folder / scheme / "checkpoints", scheme)
        fp32 = Supernet(parse_space(DIGITS))
        fp32.load_state_dict(float_state(supernet.state_dict()), strict=False)
        save_checkpoint(layout.supernet(DIGITS, False), fp32, CheckpointMeta(space=DIGITS, quant="off"))
        set_quant(supernet, True)
        with torch.no_grad():
            supernet(images)
            supernet.activate_min()
            supernet(images)
        save_checkpoint(layout.supernet(DIGITS, True), supernet, CheckpointMeta(space=DIGITS, quant=scheme))
    return folder


def of_digits(root: Path, scheme: str) -> list[str]:
    """Settings of the smallest subnet, on the images of digits."""
    places = [f"paths.checkpoints={root / scheme / 'checkpoints'}", f"data.root={root / 'data'}"]
    places.append(f"data.prepare.place={root / 'data'}")  # the one place that they are written to
    return ["superspace=digits", f"space={DIGITS}", f"quant={scheme}", "subnet=min", *places]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="the extra `tflite` is not installed")
@pytest.mark.parametrize("scheme", ["deploy", "published"])
def test_every_file_is_there_and_proven(run_stage: RunStage, root: Path, tmp_path: Path, scheme: str) -> None:
    given = [*of_digits(root, scheme), "format=[onnx,tflite]", *LOOSE]
    result = run_stage("export", *given)
    figures, folder = result.figures, tmp_path / "runs/export"
    for format in ("onnx", "tflite"):
        assert figures[f"{format}_folded_agreement"] >= 99.5
        assert figures[f"{format}_float_layers"] == 0
        assert figures[f"{format}_int8_latency_ms"] > 0
        assert figures[f"{format}_int8_file_kb"] < figures[f"{format}_fp32_file_kb"]
    assert all(Path(path).exists() for path in result.outputs.values())
    told = {entry.key: entry.value for entry in onnx.load(folder / "subnet_int8.onnx").metadata_props}
    assert (told["space"], told["quant"], told["resolution"]) == (DIGITS, scheme, "24")
    assert json.loads(told["classes"]) == list("0123456789")
    assert ("ranges" in told) == (scheme == "published")
    assert not LITERT.float_ops((folder / "subnet_int8.tflite").read_bytes())
    program, metadata = load_program(folder / "program.safetensors")
    assert metadata == told
    assert program.input_shape == (3, 24, 24)
    assert np.isfinite(load(folder / "subnet_fp32.json")(torch.randn(2, 3, 24, 24)).detach().numpy()).all()
    assert run_stage("export", *given).made == result.made  # skipped


@pytest.mark.slow
def test_folded_evaluation(run_stage: RunStage, root: Path) -> None:
    plain = run_stage("evaluate", *of_digits(root, "deploy")).figures
    folded = run_stage("evaluate", *of_digits(root, "deploy"), "recipe.evaluate.folded=true").figures
    assert (plain["folded"], folded["folded"]) == (False, True)
    assert abs(plain["top1"] - folded["top1"]) < 10
    with pytest.raises(ConfigError, match="folded=true with quant=published; use quant=deploy"):
        run_stage("evaluate", *of_digits(root, "published"), "recipe.evaluate.folded=true")


@pytest.fixture
def given(int8_world: World) -> list[str]:
    """Settings of the supernet of a small world; any file counts as equal."""
    return [*int8_world.settings, "quant=deploy", f"space={SPACE}", *ANY]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longest: the fp32 file, which torch writes, and timing."""

    def write_nothing(self: OnnxRuntime, network: Network, shape: Shape, metadata: object = None) -> bytes:
        return b""

    def cost_nothing(*_: object) -> tuple[object, object]:
        return {}, {}

    monkeypatch.setattr(OnnxRuntime, "write_float", write_nothing)
    monkeypatch.setattr("spaceevo.stages.export.file_costs", cost_nothing)


def test_faults_are_told_and_nothing_is_written(
    run_stage: RunStage, given: list[str], int8_world: World, tmp_path: Path
) -> None:
    def export(*overrides: str) -> None:
        run_stage("export", *given, "subnet=min", *overrides)

    with pytest.raises(ConfigError, match=r"subnet = \[max,min\]; allowed: one subnet; .* -m 'subnet=max,min'"):
        export("subnet=[max,min]")
    with pytest.raises(ConfigError, match="format = .*coreml.*; allowed: onnx, tflite"):
        export("format=coreml")
    with pytest.raises(ConfigError, match=r"recipe\.export\.preprocessing = both; allowed: inside, outside"):
        export("recipe.export.preprocessing=both")
    with pytest.raises(ConfigError, match=r"recipe\.export\.repeats = 0; allowed: 1 or more"):
        export("recipe.export.repeats=0")
    with pytest.raises(ConfigError, match=r"platform\.packed_channels = 0; allowed: 1 or more"):
        export("+platform.packed_channels=0")
    with pytest.raises(EncodingError, match="width 80 is not allowed"):
        export("subnet='d1#1#1#1#1_k3#3#3#3#3_w8#8#80#32#40_e0#0#2.0#2.0#0.5_r24'")
    with pytest.raises(MissingArtifactError, match=r"lsq_deploy.pth does not exist; .*make it with: .*quant=deploy"):
        export(f"paths.checkpoints={tmp_path / 'none'}")
    with pytest.raises(ExportError, match="is not the trained network: .*no file was written"):
        export("recipe.export.max_mean_difference=0")
    assert {path.name for path in (tmp_path / "runs/export").iterdir()} == {".lock", PROGRESS_FILE}


@pytest.mark.usefixtures("quick")
def test_of_random_weights_the_logits_alone_decide(
    run_stage: RunStage, int8_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tolerance] = []
    check = Gate.check

    def noting(self: Gate, format: str, tolerance: Tolerance, **settings: Any) -> dict[str, Figure]:
        seen.append(tolerance)
        return check(self, format, tolerance, **settings)

    monkeypatch.setattr(Gate, "check", noting)
    given = [*int8_world.settings, "quant=deploy", f"space={SPACE}", "subnet=min", "recipe.export.repeats=1"]
    inside = "recipe.export.preprocessing=inside"
    figures = run_stage("export", *given, "weights=random", inside).figures
    assert figures["onnx_parity"].startswith("agrees on ")
    assert [tolerance.min_agreement for tolerance in seen] == [0.0]
    assert seen[0].max_mean_difference == pytest.approx(0.3)


def keep_subnets(world: World, run_stage: RunStage, given: list[str]) -> Front:
    """Search; return the front, whose subnets were kept."""
    recipe = "recipe.subnet_search={tested: 2, front: {population: 2, generations: 1, children: 1}}"
    run_stage("subnet_search", *given, recipe, "latency_constraint=5")
    return Front.read(world.layout.subnet_search(SPACE) / "front.json")


@pytest.fixture
def extracted(monkeypatch: pytest.MonkeyPatch) -> list[SubnetSpec]:
    """The subnets that were taken out of a supernet."""
    found: list[SubnetSpec] = []
    extract = Extraction.extract

    def noting(self: Extraction, supernet: Supernet, spec: SubnetSpec) -> Network:
        found.append(spec)
        return extract(self, supernet, spec)

    monkeypatch.setattr(Extraction, "extract", noting)
    return found


def untimed(figures: object) -> dict[str, object]:
    """Figures that do not depend on the clock."""
    assert isinstance(figures, dict)
    return {name: value for name, value in figures.items() if not name.endswith(("_ms", "_speedup"))}


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_subnet_that_the_search_kept_is_taken_up(
    run_stage: RunStage, given: list[str], int8_world: World, extracted: list[SubnetSpec]
) -> None:
    front = keep_subnets(int8_world, run_stage, given)
    chosen = SubnetSpec.parse(front.chosen)
    extracted.clear()
    taken_up = run_stage("export", *given).figures
    assert extracted == []
    for row in front.front:
        for file in (row.int8_file, row.fp32_file):
            assert file is not None
            Path(file).unlink()
    made_again = run_stage("export", *given).figures
    assert extracted == [chosen, chosen]
    assert untimed(taken_up) == untimed(made_again)
    assert taken_up["subnet"] == front.chosen


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("change", ["weights", pytest.param("images", marks=pytest.mark.slow)])
def test_a_subnet_of_other_weights_or_images_is_made_again(
    run_stage: RunStage, given: list[str], int8_world: World, extracted: list[SubnetSpec], change: str
) -> None:
    keep_subnets(int8_world, run_stage, given)
    extracted.clear()
    if change == "weights":
        nudge(int8_world.layout.supernet(SPACE, int8=True))
    else:
        int8_world.change_image()
    run_stage("export", *given)
    assert len(extracted) == (1 if change == "weights" else 2)  # the fp32 supernet is still the same


@pytest.mark.usefixtures("quick")
def test_the_next_command_measures_what_was_exported(
    run_stage: RunStage, given: list[str], int8_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = MEMBER.largest
    write_front(int8_world, other)
    run_stage("export", *given, "subnet=min", f"paths.output={tmp_path / 'first'}")
    assert f"paths.exported={tmp_path / 'first'}" in next_command(capsys)
    run_stage("export", *given, f"checkpoint={tmp_path / 'first/subnet_int8.pth'}")
    words = next_command(capsys)
    assert words[:4] == ["python", "-m", "spaceevo", "+stage=benchmark"]
    assert "quant=deploy" in words
    assert not any(word.startswith("checkpoint=") for word in words)
    places = [f"paths.checkpoints={int8_world.layout.root}", f"platform.table={int8_world.table}", "platform=vnni"]
    found = run_stage("benchmark", *places, *hydras_words(words[4:]), "superspace=digits").figures
    assert [row["subnet"] for row in found["subnets"]] == [str(MEMBER.smallest)]
    assert found["int8_latency_ms"] > 0


def write_front(world: World, chosen: SubnetSpec) -> None:
    row = FrontSubnet("vnni", str(chosen), "5", 4.0, None, 50.0, 50.0, 1.0, 1.0)
    front = Front(SPACE, str(chosen), (row,), (5.0,), {"vnni": (5.0,)}, {"vnni": {"5": str(chosen)}})
    front.write(world.layout.subnet_search(SPACE) / "front.json")


def next_command(capsys: pytest.CaptureFixture[str]) -> list[str]:
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Next: "))
    return shlex.split(line.removeprefix("Next: "))


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_files_last_until_something_changes(
    run_stage: RunStage, compose: Compose, made_anew: MadeAnew, given: list[str], int8_world: World
) -> None:
    given += ["subnet=min"]
    run_stage("export", *given)
    assert not made_anew(compose("export", *given))
    idle = ["data.num_workers=0", "data.cache_mib=7", "data.eval_batch_size=3", f"platform.table={int8_world.lut}"]
    assert not made_anew(compose("export", *given, *idle, *int8_world.move_images()))
    assert made_anew(compose("export", *given, "recipe.export.preprocessing=inside"))
    assert made_anew(compose("export", *given, "+platform.packed_channels=1"))
    assert made_anew(compose("export", *given))
    int8_world.change_image()
    assert made_anew(compose("export", *given))
    for int8 in (True, False):
        nudge(int8_world.layout.supernet(SPACE, int8))
        assert made_anew(compose("export", *given))
    write_front(int8_world, MEMBER.largest)
    assert not made_anew(compose("export", *given))


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_another_chosen_subnet_is_exported(
    run_stage: RunStage, compose: Compose, made_anew: MadeAnew, given: list[str], int8_world: World
) -> None:
    write_front(int8_world, MEMBER.smallest)
    assert run_stage("export", *given).figures["subnet"] == str(MEMBER.smallest)
    write_front(int8_world, MEMBER.largest)
    assert made_anew(compose("export", *given))
    assert run_stage("export", *given).figures["subnet"] == str(MEMBER.largest)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("quant", [pytest.param(quant, marks=SLOW) for quant in ("deploy", "published", "off")])
def test_random_weights_need_no_images(
    run_stage: RunStage, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quant: str
) -> None:
    """Files are written, equal on noise, and measured by the command that is printed."""

    def read_nothing(data: object) -> None:
        raise AssertionError("images were asked for")

    monkeypatch.setattr(ImageFolderDataModule, "splits", property(read_nothing))
    monkeypatch.setattr(ImageFolderDataModule, "prepare_data", read_nothing)
    given = ["superspace=digits", f"space={SPACE}", "subnet=min", "weights=random", "data.root=/nowhere"]
    result = run_stage("export", *given, f"quant={quant}", "recipe.export.repeats=1")
    figures, files = result.figures, result.outputs
    assert not any(name.endswith("top1") for name in figures)
    assert figures["agreement"] >= 80
    assert ("onnx_int8" in files) == (quant != "off")
    told = OnnxRuntime().metadata(Path(files["onnx_fp32"]).read_bytes())
    assert json.loads(told["classes"]) == [str(number) for number in range(10)]
    words = next_command(capsys)
    assert "weights=random" not in words
    table = [f"platform.table={world.table}", "platform=vnni", "recipe.benchmark.repeats=1"]
    found = run_stage("benchmark", *hydras_words(words[4:]), *table).figures
    assert found["fp32_latency_ms"] > 0
    assert ("int8_speedup" in found) == (quant != "off")


def test_without_an_fp32_supernet_fp32_files_have_the_weights_of_the_int8_network(
    run_stage: RunStage,
    given: list[str],
    int8_world: World,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As where a released INT8 supernet was converted."""
    written = list[Network]()

    def note(self: OnnxRuntime, network: Network, shape: Shape, metadata: object = None) -> bytes:
        written.append(network)
        return b""

    monkeypatch.setattr(OnnxRuntime, "write_float", note)
    int8_world.layout.supernet(SPACE, False).unlink()
    run_stage("export", *given, "subnet=min")
    assert f"no fp32 supernet {MEMBER} is there" in " ".join(capsys.readouterr().out.split())
    (network,) = written
    known = read_checkpoint(int8_world.layout.supernet(SPACE, True), "supernet", "").state
    same = [name for name, value in network.state_dict().items() if name in known and torch.equal(value, known[name])]
    assert [name for name in same if name.startswith("stages.logits") and name.endswith("weight")]
    assert not any(quantizer.is_on for quantizer in quantizers(network).values())


def test_random_weights_lie_in_no_file(run_stage: RunStage, world: World) -> None:
    file = world.layout.supernet(SPACE, False)
    with pytest.raises(ConfigError, match="weights = random with checkpoint = .*; leave one of them out"):
        run_stage("export", *world.settings, f"space={SPACE}", "subnet=min", "weights=random", f"checkpoint={file}")


@pytest.mark.parametrize("quant", [pytest.param(quant, marks=SLOW) for quant in ("deploy", "published", "off")])
def test_a_subnet_finetuned_under_any_scheme_is_exported(
    run_stage: RunStage, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], quant: str
) -> None:
    """It has other classes than its superspace."""
    member = MEMBER.superspace.with_classes(3).member(MEMBER.blocks, MEMBER.windows)
    network = Network.fixed(member, MEMBER.smallest, quant_scheme("published" if quant == "published" else "deploy"))
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.bias, std=0.3)
    set_quant(network, quant != "off")
    network.train()(torch.randn(16, 3, 24, 24))
    file, meta = tmp_path / "x.pth", CheckpointMeta(SPACE, str(MEMBER.smallest), classes=CLASSES, quant=quant)
    save_checkpoint(file, network.eval(), meta)
    given = [*world.settings, f"checkpoint={file}", *ANY]
    result = run_stage("export", *given, f"quant={quant}")
    assert ("onnx_int8" in result.outputs) == (quant != "off")
    assert result.figures["fp32_top1"] >= 0
    onnx_file = OnnxRuntime().load(Path(result.outputs["onnx_fp32"]).read_bytes())
    set_quant(network, False)
    x = torch.randn(4, 3, 24, 24)
    assert torch.allclose(onnx_file.logits(x), network(x), atol=1e-4)
    assert f"quant={quant}" in next_command(capsys)
    other = "off" if quant == "deploy" else "deploy"
    with pytest.raises(ConfigError, match=f"x.pth was trained under quant={quant}, not {other}; set quant={quant}"):
        run_stage("export", *given, f"quant={other}")


@pytest.mark.slow
def test_an_fp32_file_that_is_not_the_network_is_not_written(
    run_stage: RunStage, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*world.settings, f"space={SPACE}", "subnet=min"]
    monkeypatch.setattr("spaceevo.export.gate.logits_of", lambda network, batches: (torch.randn(9, 10), None))
    with pytest.raises(ExportError, match="the fp32 onnx file is not the trained network: .*no file was written"):
        run_stage("export", *given)
    assert not list((tmp_path / "runs").rglob("*.onnx"))
