"""The job report: one page, of the chain at hand or of several."""

from pathlib import Path

import pytest

from spaceevo.artifacts import StageResult
from spaceevo.errors import ConfigError
from tests.stages.conftest import RunStage


@pytest.mark.slow  # the library is bundled anew
def test_a_page_holds_its_library_and_is_small(run_stage: RunStage, tmp_path: Path) -> None:
    StageResult("cost", "f", 0, {}).save(tmp_path / "runs" / "cost")
    page = Path(run_stage("report", "superspace=digits").outputs["report"])
    assert page.stat().st_size < 5e6
    assert "window.vegaEmbed" in page.read_text()


def test_the_commands_of_several_chains_name_their_folders(
    run_stage: RunStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spaceevo.report.page.charts_library", lambda: "")
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        StageResult("cost", "f", 0, {}).save(folder / "cost")
    text = Path(run_stage("report", f"chains=[{folders[0]},{folders[1]}]").outputs["report"]).read_text()
    for folder in folders:
        assert f"python -m spaceevo +stage=benchmark quant=deploy paths.root={folder}" in text


def test_a_folder_without_results_is_no_empty_page(run_stage: RunStage, tmp_path: Path) -> None:
    StageResult("plan", "f", 0, {}).save(tmp_path / "runs" / "plan")
    with pytest.raises(ConfigError, match=r"runs: no job has ended there; give folders of runs"):
        run_stage("report", "superspace=digits")
    assert not (tmp_path / "runs" / "report" / "report.html").exists()


def test_what_a_chain_elsewhere_lacks_is_made_there(
    run_stage: RunStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spaceevo.report.page.charts_library", lambda: "")
    old = "python -m spaceevo +stage=cost paths.root=/was/there"
    StageResult("cost", "f", 0, {}, command=old).save(tmp_path / "b" / "cost")
    text = Path(run_stage("report", f"chains=[{tmp_path / 'b'}]").outputs["report"]).read_text()
    assert f"python -m spaceevo +stage=benchmark quant=deploy paths.root={tmp_path / 'b'}" in text
    assert f"python -m spaceevo +stage=cost paths.root={tmp_path / 'b'}" in text and "/was/there" not in text


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        (
            "+stage=block_kd experiment=digits block=stage1_0 recipe.supernet.fp32.epochs=2 force=true",
            "experiment=digits",
        ),
        ("+stage=block_kd quant=off superspace=digits recipe.supernet.fp32.epochs=2", "superspace=digits"),
        (
            "--config-dir my_conf +stage=block_kd superspace=mine recipe.supernet.fp32.epochs=2",
            "--config-dir my_conf superspace=mine",
        ),
        ("experiment=mobilew/block_kd recipe.block_kd.fp32.epochs=2", None),  # of this job alone
    ],
)
def test_what_a_chain_lacks_is_made_by_the_words_that_made_it(
    run_stage: RunStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str, told: str | None
) -> None:
    monkeypatch.setattr("spaceevo.report.page.charts_library", lambda: "")
    command = f"python -m spaceevo {recorded} paths.root=/was/there"
    StageResult("block_kd", "f", 0, {}, command=command).save(tmp_path / "b" / "block_kd_fp32")
    for quant in ("deploy", "reduced_range"):
        made = run_stage("report", f"chains=[{tmp_path / 'b'}]", f"recipe.pipeline.quant={quant}")
        text = Path(made.outputs["report"]).read_text()
        if told is None:
            assert text.count("recipe.block_kd.fp32.epochs=2") == 1  # in what made it
            continue
        for step, scheme in (("supernet", quant), ("supernet", "off"), ("benchmark", quant)):
            words = f"{told} recipe.supernet.fp32.epochs=2 +stage={step} quant={scheme} paths.root={tmp_path / 'b'}"
            assert f"python -m spaceevo {words}<" in text


def test_a_folder_that_is_not_there_is_told(run_stage: RunStage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: it is no folder"):
        run_stage("report", "superspace=digits", f"chains=[{tmp_path / 'nowhere'}]")
