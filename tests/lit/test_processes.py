"""Two processes against one with the doubled batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("processes.py")


def run(command: list[str], *arguments: object) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *command, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["block_kd", "supernet"])
def test_two_processes_are_one_with_twice_the_images(tmp_path: Path, kind: str) -> None:
    run([], kind, tmp_path, 32)
    run(["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29571"], kind, tmp_path, 16)
    one, first, second = (json.loads((tmp_path / f"{kind}_{name}.json").read_text()) for name in ("1_0", "2_0", "2_1"))
    assert len(one["losses"]) == 4
    for step, (ours, theirs) in enumerate(zip(one["losses"], first["losses"], strict=True)):
        assert ours == pytest.approx(theirs, rel=1e-5), f"step {step}"
    assert one["losses"][0] != one["losses"][3]
    assert one["weights"] == pytest.approx(first["weights"], rel=1e-4, abs=1e-6)
    assert first["weights"] == second["weights"]
    assert one["sampled"] == first["sampled"] == second["sampled"]
    assert one["rate"] == first["rate"] == pytest.approx(0.01)  # 32 images a step, rates are meant for 16
    for name, figures in one["figures"].items():
        assert figures == pytest.approx(first["figures"][name], rel=1e-4)
        assert first["figures"][name] == pytest.approx(second["figures"][name], rel=1e-6)
