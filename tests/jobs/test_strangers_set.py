"""The stranger's set goes through the jobs that read images; each tells what it took for what."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.conftest import RunJob
from tests.lit.strangers import write_tree

SPACE = "space=digits-012-000"
JOBS = {
    "supernet": (SPACE, "quant=off"),
    "evaluate": (SPACE, "quant=off", "subnet=min"),
    "teacher": ("quant=off",),
    "block_kd": ("quant=off", "block=stage1_0"),
    "block_lut": ("quant=off", "block=stage1_0", "recipe.block_lut.samples=2", "recipe.block_lut.evaluation_batches=1"),
    "finetune": (SPACE, "quant=off", "subnet=min", "weights=random"),
    "export": (SPACE, "quant=off", "subnet=min", "recipe.export.min_agreement=0"),  # random weights need no images
}


@pytest.mark.slow
def test_every_job_takes_the_strangers_set(tiny: RunJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test, passed_over = write_tree(tmp_path / "strange")
    for job, overrides in JOBS.items():
        result = tiny(job, f"data.root={tmp_path / 'strange'}", *overrides)
        assert result.stage == job
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("data: ")]
        assert len(lines) == 1
        assert f"10 classes, {train - 4} train, 4 held out, {test} test, " in lines[0]
        assert f"{passed_over} files passed over" in lines[0]
