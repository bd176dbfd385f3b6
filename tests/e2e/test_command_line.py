"""The command line as a user meets it: every fault is one line and exit code 1."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from spaceevo.__main__ import main
from spaceevo.report.status import watch


def spaceevo(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "spaceevo", *arguments],
        cwd=folder,
        env={**os.environ, "SPACEEVO_CACHE": str(folder / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


class Text(io.StringIO):
    """What is written to stderr; the program puts another `write` in its place."""


def fault(folder: Path, *arguments: str) -> str:
    """The error line of a command that must fail, run in this process."""
    errors = Text()
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SPACEEVO_CACHE", str(folder / "cache"))
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.setattr(sys, "argv", ["spaceevo", *arguments])
        with redirect_stderr(errors), pytest.raises(SystemExit) as ended:
            main()
    GlobalHydra.instance().clear()
    lines = errors.getvalue().splitlines()
    assert ended.value.code == 1
    assert len(lines) == 1, errors.getvalue()
    assert lines[0].startswith("error: ")
    return lines[0]


def images(root: Path, per_class: int = 3) -> Path:
    """A small image folder."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(per_class):
                Image.effect_noise((40, 40), 60 + number).convert("RGB").save(root / split / name / f"{number}.png")
    return root


def test_without_a_stage_the_program_lists_them(tmp_path: Path) -> None:
    done = spaceevo(tmp_path)
    assert done.returncode == 0
    assert "block_kd" in done.stdout
    assert "mobilew" in done.stdout


def test_a_fault_is_one_line_and_exit_1(tmp_path: Path) -> None:
    done = spaceevo(tmp_path, "+stage=space_search", "superspace=nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_unknown_superspace_names_the_allowed(tmp_path: Path) -> None:
    line = fault(tmp_path, "+stage=space_search", "superspace=nowhere")
    assert "nowhere" in line
    assert "digits" in line


def test_unknown_stage_names_the_allowed(tmp_path: Path) -> None:
    line = fault(tmp_path, "+stage=nothing", "superspace=digits")
    assert "nothing" in line
    assert "block_kd" in line


def test_unknown_block_names_the_allowed(tmp_path: Path) -> None:
    line = fault(tmp_path, "+stage=block_kd", "superspace=digits", "block=stage9_0")
    assert "stage9_0" in line
    assert "stage1_0" in line


def test_window_wider_than_widths_is_named(tmp_path: Path) -> None:
    line = fault(tmp_path, "+stage=space_search", "superspace=digits", "superspace.stages.stage2.window=9")
    assert "stage2" in line
    assert "window = 9" in line
    assert "1…3" in line


def test_missing_image_folder_is_named(tmp_path: Path) -> None:
    line = fault(tmp_path, "+stage=block_kd", "superspace=mobilew", "block=stage1_0", "data.root=absent")
    assert "absent" in line


def test_missing_teacher_names_the_command(tmp_path: Path) -> None:
    line = fault(tmp_path, "+stage=block_kd", "superspace=digits", "block=stage1_0")
    assert "+stage=teacher superspace=digits" in line


def test_missing_tables_name_the_command(tmp_path: Path) -> None:
    line = fault(tmp_path, "+stage=space_search", "superspace=digits", "platform.fixed_latency_ms=0.1")
    assert "+stage=block_lut" in line


def test_a_supernet_without_int8_training_names_the_command(tmp_path: Path) -> None:
    line = fault(tmp_path, "+stage=subnet_search", "superspace=digits", "space=digits-012-010", "latency_constraint=1")
    assert "+stage=supernet superspace=digits latency_constraint=1 space=digits-012-010 quant=deploy" in line


def test_an_absent_dataset_says_where_its_files_go(tmp_path: Path) -> None:
    line = fault(
        tmp_path, "+stage=finetune", "superspace=digits", "data=cifar10", "data.root=none", "data.download=false"
    )
    assert "dataset cifar10 in data.root none is not there" in line
    assert "data.download=true" in line


def test_a_failing_sweep_exits_1(tmp_path: Path) -> None:
    line = fault(tmp_path, "-m", "+stage=space_search", "superspace=digits", "latency_constraint=0.2,0.4")
    assert "+stage=block_lut" in line


def test_a_word_sweeps_as_the_option_does(tmp_path: Path) -> None:
    words = ("+stage=cost", "superspace=digits", "space=digits-000-000,digits-010-000", "subnet=min")
    done = spaceevo(tmp_path, *words, "hydra.mode=MULTIRUN")
    assert done.returncode == 0, done.stderr
    found = [path.parent.name for path in (tmp_path / "runs/digits/multirun/cost").glob("*/result.json")]
    assert sorted(found) == ["0", "1"]


def test_a_look_makes_no_folder(tmp_path: Path) -> None:
    done = spaceevo(tmp_path, "+stage=status", "paths.root=nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("error: paths.root = nowhere: no job has left anything there")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()


def test_a_member_of_a_sweep_that_is_refused_is_seen(tmp_path: Path) -> None:
    line = fault(
        tmp_path, "-m", "+stage=cost", "superspace=digits", "space=digits-000-000,digits-990-000", "subnet=min"
    )
    told = {one.name: one for one in watch(tmp_path / "runs/digits/multirun/cost")}
    assert [(told[name].state, told[name].command) for name in "01"] == [("done", ""), ("failed", "")]
    assert "digits-990-000" in told["1"].troubles[0]
    assert told["1"].troubles[0] in line


COMPLETE = """
eval "$(spaceevo -sc install=bash)"
COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_CWORD=$(($# - 1)); hydra_bash_completion; echo "${COMPREPLY[*]}"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begun", "whole"),
    [
        ("+stage=sup", "+stage=supernet"),
        ("quant=d", "quant=deploy"),
        ("recipe.supernet.fp32.ep", "recipe.supernet.fp32.epochs="),
    ],
)
def test_bash_completes_words(tmp_path: Path, begun: str, whole: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", "spaceevo", begun],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.stdout.split() == [whole], done.stderr


@pytest.mark.slow
def test_a_step_of_block_kd_on_a_folder_of_a_few_images(tmp_path: Path) -> None:
    root = images(tmp_path / "images")
    words = ("superspace=mobilew", "block=stage1_0", f"data.root={root}", "teacher.weights=random", "max_epochs=1")
    done = spaceevo(tmp_path, "+stage=block_kd", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/mobilew/checkpoints/block_kd/mobilew/stage1_0/checkpoint.pth").exists()


@pytest.mark.slow
def test_a_pipeline_killed_in_every_stage_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    command = ["+stage=pipeline", "experiment=digits", "debug=fast", "max_epochs=2"]
    assert spaceevo(tmp_path, *command).returncode == 0
    result = tmp_path / "runs/digits_wide/pipeline/result.json"
    whole = repeatable(result)
    shutil.move(tmp_path / "runs", tmp_path / "first")
    for number in range(1, 12):
        kill_in_step(tmp_path, number, *command)
    assert spaceevo(tmp_path, *command).returncode == 0
    assert len(whole) > 40
    assert repeatable(result) == whole


def repeatable(result: Path) -> dict[str, object]:
    """The figures of a pipeline but those that were measured by a clock, and how many tables the last start made."""
    record = json.loads(result.read_text())
    clocked = ("seconds", "speedup", "_percent", "_tau", "files_made", "in_words")
    figures = {name: record[name] for name in record["figures"] if not name.endswith(clocked)}
    figures = {n: value for n, value in figures.items() if not n.endswith("latency_ms") or "predicted" in n}
    figures["pareto_subnets"] = [{**row, "measured_ms": None} for row in record["pareto_subnets"]]
    figures["subnets"] = [row["subnet"] for row in record["subnets"]]
    return figures


def kill_in_step(folder: Path, number: int, *command: str) -> None:
    """Start the pipeline and kill it a second into its step `number`."""
    running = subprocess.Popen(
        [sys.executable, "-u", "-m", "spaceevo", *command],
        cwd=folder,
        env={**os.environ, "SPACEEVO_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        text=True,
    )
    with running:
        assert running.stdout is not None
        assert any(line.startswith(f"{number}/11 ") for line in running.stdout)
        time.sleep(1)
        running.kill()
