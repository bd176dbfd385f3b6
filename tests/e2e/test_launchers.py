"""Jobs side by side, and machines together, as the guide has them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from spaceevo.nn.loading import read_checkpoint

pytestmark = pytest.mark.slow
FAST = ("superspace=digits", "debug=fast")


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    """Start a command in a folder, its two streams as one."""
    environment = {**os.environ, "SPACEEVO_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def spaceevo(folder: Path, *arguments: str) -> str:
    """Run the program in a folder; what it printed."""
    with start(folder, sys.executable, "-m", "spaceevo", *arguments) as running:
        printed = running.communicate(timeout=280)[0]
    assert running.returncode == 0, printed
    return printed


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher, fp32 and INT8."""
    folder = tmp_path_factory.mktemp("taught")
    for quant in ("off", "deploy"):
        spaceevo(folder, "+stage=teacher", *FAST, f"quant={quant}")
    return folder


def root(taught: Path, name: str) -> str:
    """Setting of a run's folder that holds the teacher and nothing else."""
    place = Path("block_kd/teacher_checkpoint")
    shutil.copytree(taught / "runs/digits/checkpoints" / place, taught / name / "checkpoints" / place)
    return f"paths.root={name}"


def weights(folder: Path, file: str = "checkpoint.pth") -> dict[str, Mapping[str, torch.Tensor]]:
    """Weights of all blocks."""
    files = (folder / "checkpoints/block_kd/digits").glob(f"*/{file}")
    return {path.parent.name: read_checkpoint(path, "block", "").state for path in files}


def assert_same(first: Mapping[str, Mapping[str, torch.Tensor]], second: Mapping[str, Any], count: int) -> None:
    assert len(first) == len(second) == count
    for name, state in first.items():
        assert all(torch.equal(value, second[name][key]) for key, value in state.items()), name


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_side_by_side_make_what_one_job_makes(taught: Path, launcher: str) -> None:
    package = f"hydra_{launcher.split('_')[0]}_launcher"
    if find_spec(f"hydra_plugins.{package}") is None:
        pytest.skip(f"package {package} is not installed")
    alone, swept = root(taught, f"{launcher}_alone"), root(taught, f"{launcher}_swept")
    spaceevo(taught, "+stage=block_kd", *FAST, "block=[stage1,stage2]", alone)
    jobs = [*FAST, "block=stage1,stage2", swept, f"hydra/launcher={launcher}"]
    spaceevo(taught, "-m", "+stage=block_kd", *jobs)
    assert_same(weights(taught / f"{launcher}_swept"), weights(taught / f"{launcher}_alone"), 6)
    if launcher != "joblib":
        return
    spaceevo(taught, "-m", "+stage=block_kd", *jobs, "quant=deploy")
    spaceevo(taught, "-m", "+stage=block_lut", *jobs)
    assert len(list((taught / f"{launcher}_swept/block_lut/ort_cpu").glob("*.csv"))) == 12


def test_two_machines_are_one_run(taught: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--master-addr", "127.0.0.1", "--master-port", port]
    stage = ["-m", "spaceevo", "+stage=block_kd", *FAST, "block=stage1", "trainer=ddp", root(taught, "nodes")]
    nodes = [start(taught, *command, "--node-rank", str(rank), *stage) for rank in (1, 0)]
    printed = [node.communicate(timeout=280)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    assert "result.json" not in printed[0]
    assert printed[1].count("result.json") == 1
    assert len(weights(taught / "nodes")) == 3
    assert json.loads((taught / "nodes/block_kd_fp32/result.json").read_text())["stage1_0_max_nsr"] > 0
