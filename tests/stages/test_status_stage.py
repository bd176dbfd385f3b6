"""The job status: one look, or many until nothing runs any more."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from spaceevo.artifacts.progress import JobProgress
from spaceevo.errors import ConfigError
from tests.stages.conftest import RunStage


def test_it_looks_until_nothing_runs(run_stage: RunStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, file = time.time(), tmp_path / "runs" / "supernet_fp32" / "progress.json"
    JobProgress("supernet", "python -m spaceevo", began=now - 9, told=now).write(file)
    pages: list[str] = []

    def sleep(seconds: float) -> None:
        assert seconds == 3
        pages.append((tmp_path / "runs" / "status" / "status.html").read_text())
        JobProgress("supernet", "again", began=now - 9, told=now, state="failed", error="disk is full").write(file)

    monkeypatch.setattr(time, "sleep", sleep)
    result = run_stage("status", "watch=3")
    assert result.figures == {"done": 0, "running": 0, "waiting": 0, "stopped": 0, "failed": 1}
    assert len(pages) == 1 and 'content="3"' in pages[0]
    last = Path(result.outputs["status"]).read_text()
    assert "disk is full" in last and "http-equiv" not in last


def test_it_looks_until_a_pipeline_has_ended_that_has_no_step_yet(
    run_stage: RunStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now, root = time.time(), tmp_path / "runs"
    begun = JobProgress("pipeline", "python", began=now - 9, told=now)
    begun.write(root / "pipeline/progress.json")
    assert run_stage("status").figures["running"] == 1
    assert "pipeline" in capsys.readouterr().out
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 1:  # a step has ended, and the next has not begun
            JobProgress("teacher", "python", began=now - 5, told=now, state="done").write(root / "t/progress.json")
        else:
            replace(begun, state="done").write(root / "pipeline/progress.json")

    monkeypatch.setattr(time, "sleep", sleep)
    assert run_stage("status", "watch=3").figures == {"done": 1, "running": 0, "waiting": 0, "stopped": 0, "failed": 0}
    assert looks == [3, 3]


def test_a_pipeline_that_failed_by_itself_is_told(
    run_stage: RunStage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its look ahead refused a setting; a fault of a step is told once, as the step's."""
    root, error = tmp_path / "runs", "recipe: warmup_epochs = 2.0; allowed: 0…epochs (1)"
    pipeline = JobProgress("pipeline", "python -m spaceevo", began=1.0, told=2.0, state="failed", error=error)
    pipeline.write(root / "pipeline/progress.json")
    assert run_stage("status").figures["failed"] == 1
    told = " ".join(capsys.readouterr().out.split())
    assert f"pipeline: {error}" in told and "Goes on with: python -m spaceevo" in told
    step = JobProgress("teacher", "python", began=1.0, told=2.0, state="failed", error=error)
    step.write(root / "teacher/progress.json")
    assert run_stage("status").figures["failed"] == 1


def test_status_of_a_folder_of_chains_names_them(
    run_stage: RunStage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is not done would be lost among the others."""
    for name in ("digits", "x y<"):
        JobProgress("pipeline", "python", began=1.0, told=2.0).write(
            tmp_path / "runs" / name / "pipeline/progress.json"
        )
    told = r"holds chains; .*; give one of them: paths.root=.*runs/digits, paths.root='.*runs/x y<'$"
    with pytest.raises(ConfigError, match=told):
        run_stage("status", "superspace=digits")
    JobProgress("teacher", "python", began=1.0, told=2.0, state="done").write(tmp_path / "runs/teacher/progress.json")
    assert run_stage("status", "superspace=digits").figures["done"] == 1
    assert "Not looked at, chains of their own: paths.root=" in " ".join(capsys.readouterr().out.split())


def test_status_of_a_folder_where_no_job_was_is_no_empty_table(run_stage: RunStage, tmp_path: Path) -> None:
    (tmp_path / "nowhere/status").mkdir(parents=True)  # where its own log is
    with pytest.raises(ConfigError, match=r"paths.root = .*nowhere: no job has left anything there; give the folder"):
        run_stage("status", "superspace=digits", f"paths.root={tmp_path / 'nowhere'}")
