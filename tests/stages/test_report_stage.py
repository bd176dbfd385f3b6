"""The job report: one page, of the chain at hand or of several."""

from pathlib import Path

import pytest

from spaceevo.errors import ConfigError
from tests.stages.conftest import RunStage


@pytest.mark.slow  # the library is bundled anew
def test_a_page_holds_its_library_and_is_small(run_stage: RunStage) -> None:
    page = Path(run_stage("report", "superspace=digits").outputs["report"])
    assert page.stat().st_size < 5e6
    assert "window.vegaEmbed" in page.read_text()


def test_the_commands_of_several_chains_name_their_folders(
    run_stage: RunStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spaceevo.report.page.charts_library", lambda: "")
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    text = Path(run_stage("report", f"chains=[{folders[0]},{folders[1]}]").outputs["report"]).read_text()
    for folder in folders:
        assert f"python -m spaceevo +stage=benchmark quant=deploy paths.root={folder}" in text


def test_a_folder_that_is_not_there_is_told(run_stage: RunStage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere is no folder"):
        run_stage("report", "superspace=digits", f"chains=[{tmp_path / 'nowhere'}]")
