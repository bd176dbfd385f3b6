"""Job models: a list of subnets becomes files, and one table, without an image."""

from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from spaceevo.errors import ConfigError, EncodingError, ExportError
from spaceevo.runtimes.litert.runtime import LiteRt
from spaceevo.runtimes.onnx.files import largest_weight
from spaceevo.space.description import parse_space
from tests.stages.conftest import Compose, MadeAnew, RunStage

Captured = pytest.CaptureFixture[str]

MEMBER = parse_space("digits-222-110")
LITERT = ("platform=tflite_cpu", "recipe.models.repeats=1", "data.root=/nowhere")


@pytest.fixture
def listed(tmp_path: Path) -> str:
    """A setting that names a list of two subnets."""
    (tmp_path / "input.csv").write_text(f"superspace,space,subnet\ndigits,{MEMBER},min\ndigits,222-110,max\n")
    return f"models={tmp_path / 'input.csv'}"


@pytest.mark.skipif(not find_spec("ai_edge_litert"), reason="needs the extra tflite")
def test_a_list_becomes_files_and_one_table(
    run_stage: RunStage, compose: Compose, made_anew: MadeAnew, listed: str, tmp_path: Path, capsys: Captured
) -> None:
    found = run_stage("models", listed, *LITERT)
    shown = capsys.readouterr().out
    assert shown.index(" min ") < shown.index(" max ")
    table = pd.read_csv(found.outputs["table"])
    assert table.subnet.tolist() == [str(MEMBER.smallest), str(MEMBER.largest)]
    assert (table.difference < 0.1).all()
    for precision in ("int8", "fp32"):
        assert (table[f"{precision}_ms"] > 0).all()
    file = Path(found.outputs["002_int8.tflite"]).read_bytes()
    assert LiteRt().metadata(file)["subnet"] == str(MEMBER.largest)
    assert table.file_kb[1] == pytest.approx(len(file) / 1e3)
    assert not made_anew(compose("models", listed, *LITERT))
    (tmp_path / "input.csv").write_text("digits,222-110,min\n")
    assert made_anew(compose("models", listed, *LITERT))
    folder = Path(found.outputs["table"]).parent
    assert {file.name for file in folder.glob("*.[ct]*")} == {"models.csv", "001_int8.tflite", "001_fp32.tflite"}
    (tmp_path / "other.csv").write_text("digits,222-110,max\n")
    assert Path(run_stage("models", f"models={tmp_path / 'other.csv'}", *LITERT).outputs["table"]).parent != folder
    assert pd.read_csv(found.outputs["table"]).subnet.tolist() == [str(MEMBER.smallest)]
    assert not made_anew(compose("models", listed, *LITERT))  # each list has a result of its own


@pytest.mark.skipif(not find_spec("tflite_micro"), reason="needs the extra tflite-micro")
def test_what_does_not_fit_a_microcontroller_is_refused(run_stage: RunStage, listed: str) -> None:
    words = (listed, "platform=tflite_micro", "recipe.models.repeats=1", "data.root=/nowhere")
    with pytest.raises(
        ExportError, match=r"subnet 1 of \S+input.csv: the network needs .* platform.arena_kb = 5; take"
    ):
        run_stage("models", *words, "platform.arena_kb=5")


def test_narrow_weights_are_as_near(run_stage: RunStage, listed: str) -> None:
    words = (listed, "platform=ort_cpu", "recipe.models.repeats=1", "data.root=/nowhere")
    for quant, most in (("deploy", 127), ("reduced_range", 63)):
        found = run_stage("models", *words, f"quant={quant}")
        assert largest_weight(Path(found.outputs["002_int8.onnx"]).read_bytes()) == most
        assert (pd.read_csv(found.outputs["table"]).difference < 0.1).all()


@pytest.mark.parametrize(
    "job",
    [
        *("models", "block_lut"),
        *(
            pytest.param(job, marks=pytest.mark.slow)
            for job in ("benchmark", "predict_latency", "profile", "transfer", "export")
        ),
    ],
)
def test_what_is_of_narrow_weights_has_a_folder_of_its_own(compose: Compose, job: str) -> None:
    folders = [compose(job, f"quant={quant}").stage.folder for quant in ("deploy", "reduced_range")]
    assert folders[1] == f"{folders[0]}_reduced_range"


def test_faults_are_named(run_stage: RunStage, tmp_path: Path, listed: str) -> None:
    with pytest.raises(ConfigError, match="models = null; name a file"):
        run_stage("models", *LITERT)
    (tmp_path / "bad.csv").write_text("digits,222-110,min\ndigits,222-990,min\n")
    for name in ("vnni", "none"):  # a table measures nothing
        with pytest.raises(ConfigError, match=f"platform = {name} cannot be measured; allowed: ort_cpu, "):
            run_stage("models", listed, f"platform={name}")
    with pytest.raises(EncodingError, match=r"bad.csv, line 2, column 2 \(space\)"):
        run_stage("models", f"models={tmp_path / 'bad.csv'}", *LITERT)
    with pytest.raises(ExportError, match="the tflite file of subnet 1 in litert is not"):
        run_stage("models", listed, *LITERT, "recipe.models.max_mean_difference=0")
