"""What is told of jobs by their files alone."""

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from spaceevo.artifacts import write_csv, write_json
from spaceevo.artifacts.progress import JobProgress, StepList, Task
from spaceevo.artifacts.work import Amount, Spent
from spaceevo.report.status import Watched, chains_below, duration, going_on, in_folder, pipeline_of, watch
from spaceevo.report.status_page import write_status_page

NOW = 1_000_000.0


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


def running(job: str = "supernet") -> JobProgress:
    """A job that began 100 s ago, told something 4 s ago and is through a tenth of its steps in 60 s."""
    task = Task("steps", done=11, total=101, began=NOW - 64, began_at=1, told=NOW - 4)
    return JobProgress(job, f"go on with {job}", began=NOW - 100, told=NOW - 4, tasks=(task,))


def by_name(root: Path) -> dict[str, Watched]:
    return {one.name: one for one in watch(root)}


def test_a_chain_is_shown_in_its_order_with_what_is_to_come(chain_folder: Path) -> None:
    running().write(chain_folder / "supernet_int8" / "progress.json")
    StepList(("a", "b", "c"), ("supernet_fp32", "supernet_int8", "to_come")).write(chain_folder / "pipeline/steps.json")
    found = watch(chain_folder)
    assert [(one.name, one.state) for one in found[:3]] == [
        ("supernet_fp32", "done"),
        ("supernet_int8", "running"),
        ("to_come", "waiting"),
    ]
    one = found[1]
    assert one.done == pytest.approx(11 / 101)
    assert (one.age_s, one.seconds) == (4.0, 100.0)
    assert one.left_s == pytest.approx(60 / 10 * 90 - 4)


def test_what_went_wrong_is_told_with_the_command_that_goes_on(tmp_path: Path) -> None:
    sweep = tmp_path / "multirun" / "supernet_fp32"
    failed = replace(running(), state="failed", error="loss is nan", troubles=("rolled back",), command="again 0")
    failed.write(sweep / "0" / "progress.json")
    replace(running(), process=0, command="again 1").write(sweep / "1" / "progress.json")
    replace(running(), state="done").write(sweep / "2" / "progress.json")
    (sweep / "3").mkdir()
    (sweep / "3" / "progress.json").write_text("{")
    found = by_name(tmp_path)
    assert [found[f"multirun/supernet_fp32/{n}"].state for n in range(4)] == ["failed", "killed", "done", "failed"]
    assert found["multirun/supernet_fp32/0"].troubles == ["rolled back", "loss is nan"]
    assert "was killed" in found["multirun/supernet_fp32/1"].troubles[0]
    assert "cannot be read" in found["multirun/supernet_fp32/3"].troubles[0]
    assert going_on(list(found.values()), None) == ["again 0", "again 1"]


def test_a_chain_goes_on_by_its_pipeline(chain_folder: Path) -> None:
    replace(running(), state="failed").write(chain_folder / "supernet_int8" / "progress.json")
    replace(running("pipeline"), state="failed").write(chain_folder / "pipeline" / "progress.json")
    assert going_on(watch(chain_folder), pipeline_of(chain_folder)) == ["go on with pipeline"]


def test_a_chain_that_was_moved_goes_on_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "runs" / "digits"
    assert in_folder("run seed=1", here) == "run seed=1"
    assert in_folder("run paths.root=runs/digits seed=1", here / "teacher_fp32") == "run paths.root=runs/digits seed=1"
    assert in_folder("run paths.root='old place' seed=1", here) == f"run seed=1 paths.root={here}"
    assert in_folder("run seed=1", tmp_path / "copy") == f"run seed=1 paths.root={tmp_path / 'copy'}"


def test_a_chain_in_a_folder_of_an_odd_name_goes_on_there(tmp_path: Path) -> None:
    assert in_folder("run paths.root=old", tmp_path / "q<b>x") == f"run \"paths.root='{tmp_path}/q<b>x'\""


def test_chains_in_a_folder_are_told_from_sweeps_and_parts_of_jobs(chain_folder: Path) -> None:
    root = chain_folder.parent
    running("pipeline").write(root / "begun" / "pipeline" / "progress.json")
    running("space_search").write(root / "space_search" / "given" / "progress.json")
    running().write(root / "swept" / "0" / "progress.json")
    running().write(root / "multirun" / "supernet_fp32" / "progress.json")
    assert chains_below(root) == [root / "begun", chain_folder]
    running().write(root / "supernet_int8" / "progress.json")
    found = [one.name for one in watch(root)]
    assert found == ["supernet_int8", "multirun/supernet_fp32", "space_search/given", "swept/0"]


def test_a_single_run_is_looked_at_in_its_own_folder(tmp_path: Path) -> None:
    running().write(tmp_path / "one" / "progress.json")
    assert [one.name for one in watch(tmp_path / "one")] == ["one"]


def test_the_page_shows_blocks_and_front_so_far(chain_folder: Path) -> None:
    members = [(0.5, 60.0, "slower and worse"), (0.25, 61.5, "fast"), (0.75, 63.0, "best")]
    rows = [{"latency_ms": ms, "held_out_top1": top1, "subnet": name} for ms, top1, name in members]
    write_json(chain_folder / "subnet_search" / "population_phone.json", {"generation": 3, "population": rows})
    page = chain_folder / "status" / "status.html"
    wrong = Watched("x", "failed", troubles=["<b>bad</b>"])
    write_status_page(page, chain_folder, [wrong], ["python -m spaceevo"], refresh_s=7)
    text = page.read_text()
    assert '<meta http-equiv="refresh" content="7">' in text
    assert "x: &lt;b&gt;bad&lt;/b&gt;" in text and "python -m spaceevo" in text
    assert "Front on phone after generation 3" in text
    assert "61.5" in text and "best" in text and "slower and worse" not in text
    assert "0 ResNet" in text
    smaller = [{"subnet": "small", "mmacs": 5.5, "held_out_top1": 60.0}]
    write_json(chain_folder / "subnet_search" / "population_phone.json", {"generation": 1, "population": smaller})
    write_status_page(page, chain_folder, [], [], refresh_s=None)
    assert ">mmacs<" in page.read_text() and ">5.5<" in page.read_text()


def test_losses_of_blocks_at_work_are_those_logged_last(tmp_path: Path) -> None:
    logged = tmp_path / "block_kd_int8" / "stage1_0-stage1_1" / "csv" / "version_0" / "metrics.csv"
    rows = [{"step": n, "train/stage1_0/max_loss": 4.0 / n, "train/stage1_1/max_loss": 4.0 * n} for n in (1, 2)]
    write_csv(logged, [*rows, {"step": 3}])
    page = tmp_path / "status.html"
    write_status_page(page, tmp_path, [], [], refresh_s=None)
    assert re.findall(r'--warmth:([\d.]+)">([\d.]+)<', page.read_text()) == [("0.000", "2"), ("1.000", "8")]
    assert "INT8: still training" in page.read_text()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, ""), (12.4, "12 s"), (59.6, "1 min 00 s"), (61.0, "1 min 01 s"), (3725.0, "1 h 02 min")],
)
def test_durations(seconds: float | None, told: str) -> None:
    assert duration(seconds) == told


def test_looking_needs_no_torch() -> None:
    loaded = "import sys, spaceevo.stages.status, spaceevo.stages.report; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert "spaceevo.stages.status" in names
    assert {"torch", "matplotlib", "pandas", "vl_convert"} & {*names} == set()


@pytest.mark.parametrize("size", [0.0, 1e-320])
def test_a_record_of_no_size_is_no_fault(tmp_path: Path, size: float) -> None:
    task, spent = Task("a", 5, 20, 1.0, 0, 30.0), Spent("steps", 5, 20.0, 19.0, 1, 5.0, 4.0)
    amounts = {"steps": Amount(20, size), "new": Amount(1, 3)}
    record = JobProgress("supernet", "it", 1.0, 30.0, tasks=(task,), amounts=amounts, spent=(spent,))
    record.write(tmp_path / "supernet" / "progress.json")
    (one,) = watch(tmp_path)
    assert duration(one.left_s) == ""
    assert one.state == ("failed" if size == 0 else "running")
