"""Stage export on a supernet whose smallest subnet was trained a little: what it leaves behind."""

from importlib.util import find_spec
from pathlib import Path

import hydra
import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from spaceevo.artifacts import Layout, StageResult
from spaceevo.errors import ConfigError, EncodingError, ExportError, MissingArtifactError
from spaceevo.jobs import runner
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.supernet import Supernet, resize
from spaceevo.quant.prepare import float_state, set_quant
from spaceevo.quant.program_file import load_program
from spaceevo.runtimes.litert.runtime import LiteRt
from spaceevo.runtimes.plain_network import load
from spaceevo.space.description import conf_folder, parse_space
from spaceevo.stages.export import ExportStage

LITERT = LiteRt()

SPACE = "digits-012-110"


def taught(steps: int = 40) -> Supernet:
    """A supernet whose smallest subnet has learned scikit-learn's digits: its accuracy tells whether it is computed."""
    torch.manual_seed(0)
    supernet = Supernet(parse_space(SPACE)).train()
    supernet.activate_min()
    scans = load_digits()
    pictures = ((torch.from_numpy(scans.images).float() / 16 - 0.31) / 0.35).unsqueeze(1).expand(-1, 3, -1, -1)
    pictures, labels = resize(pictures, supernet.resolution), torch.from_numpy(scans.target)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.02, momentum=0.9)
    for _ in range(steps):
        batch = torch.randint(len(labels), (64,))
        optimizer.zero_grad()
        functional.cross_entropy(supernet(pictures[batch]), labels[batch]).backward()
        optimizer.step()
    return supernet.eval()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of both schemes."""
    folder, fp32 = tmp_path_factory.mktemp("digits"), taught()
    images = torch.randn(16, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    for scheme in ("deploy", "published"):
        supernet = Supernet(parse_space(SPACE), scheme).eval()
        supernet.load_state_dict(float_state(fp32.state_dict()), strict=False)
        layout = Layout(folder / scheme / "checkpoints")
        save_checkpoint(layout.supernet(SPACE, False), fp32, CheckpointMeta(space=SPACE, quant="off"))
        set_quant(supernet, True)
        with torch.no_grad():
            supernet(images)
            supernet.activate_min()
            supernet(images)
        save_checkpoint(layout.supernet(SPACE, True), supernet, CheckpointMeta(space=SPACE, quant=scheme))
    return folder


def run(stage: str, root: Path, scheme: str, *overrides: str) -> StageResult:
    output = root / scheme / stage
    settings = [f"+stage={stage}", "superspace=digits", f"space={SPACE}", f"quant={scheme}", "subnet=min"]
    places = [f"paths.root={root / scheme}", f"paths.output={output}", f"data.root={root / 'data'}"]
    with hydra.initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        config = hydra.compose("config", [*settings, *places, *overrides], return_hydra_config=True)
    return ExportStage().execute(config) if stage == "export" else runner.run(config)


LOOSE = ("recipe.export.min_agreement=80", "recipe.export.max_mean_difference=0.5", "recipe.export.repeats=5")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ai_edge_litert") is None, reason="the extra `tflite` is not installed")
@pytest.mark.parametrize("scheme", ["deploy", "published"])
def test_every_file_is_there_and_proven(root: Path, scheme: str) -> None:
    result = run("export", root, scheme, "format=[onnx,tflite]", *LOOSE)
    figures, folder = result.figures, root / scheme / "export"
    for form in ("onnx", "tflite"):
        assert figures[f"{form}_folded_agreement"] >= 99.5
        assert figures[f"{form}_float_layers"] == 0
        assert figures[f"{form}_int8_latency_ms"] > 0
        assert figures[f"{form}_int8_file_kb"] < figures[f"{form}_fp32_file_kb"]
    assert all(Path(path).exists() for path in result.outputs.values())
    told = {entry.key: entry.value for entry in onnx.load(folder / "subnet_int8.onnx").metadata_props}
    assert (told["space"], told["quant"], told["resolution"]) == (SPACE, scheme, "24")
    assert told["classes"] == "0,1,2,3,4,5,6,7,8,9"
    assert ("ranges" in told) == (scheme == "published")
    assert not LITERT.float_ops((folder / "subnet_int8.tflite").read_bytes())
    program, metadata = load_program(folder / "program.safetensors")
    assert metadata == told
    assert program.input_shape == (3, 24, 24)
    assert np.isfinite(load(folder / "subnet_fp32.json")(torch.randn(2, 3, 24, 24)).detach().numpy()).all()
    assert run("export", root, scheme, "format=[onnx,tflite]", *LOOSE).seconds == result.seconds  # skipped


@pytest.mark.slow
def test_folded_evaluation(root: Path) -> None:
    plain = run("evaluate", root, "deploy").figures
    folded = run("evaluate", root, "deploy", "recipe.evaluate.folded=true").figures
    assert (plain["folded"], folded["folded"]) == (False, True)
    assert plain["top1"] > 60
    assert abs(plain["top1"] - folded["top1"]) < 5
    with pytest.raises(ConfigError, match="folded=true with quant=published; use quant=deploy"):
        run("evaluate", root, "published", "recipe.evaluate.folded=true")


def test_faults_are_told_and_nothing_is_written(root: Path, tmp_path: Path) -> None:
    def export(*overrides: str) -> None:
        run("export", root, "deploy", f"paths.output={tmp_path / 'out'}", *overrides)

    with pytest.raises(ExportError, match="quant=off has no INT8 weights"):
        export("quant=off")
    with pytest.raises(ConfigError, match="format = coreml; allowed: onnx, tflite"):
        export("format=coreml")
    with pytest.raises(ConfigError, match="preprocessing = both; allowed: inside, outside"):
        export("recipe.export.preprocessing=both")
    with pytest.raises(EncodingError, match="width 80 is not allowed"):
        export("subnet='d1#1#1#1#1_k3#3#3#3#3_w8#8#80#32#40_e0#0#2.0#2.0#0.5_r24'")
    with pytest.raises(MissingArtifactError, match=r"lsq.pth does not exist; make it with: .*quant=deploy"):
        export(f"paths.checkpoints={tmp_path / 'none'}")
    with pytest.raises(ExportError, match="is not the trained network: .*no file was written"):
        export("recipe.export.max_mean_difference=0")
    assert not (tmp_path / "out").exists()
