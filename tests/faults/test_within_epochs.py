"""Every kind of training, killed within an epoch and started again, ends with the weights of an undisturbed one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from spaceevo.lit.guard import LossWatch
from tests.faults.layer import Killed
from tests.stages.conftest import SPACE, RunStage, World

TRAINED = ["max_epochs=2", "data.batch_size=4", "trainer.accelerator=cpu", "recipe.save_minutes=1e-9", "force=true"]
TRAINED += ["recipe.teacher.int8.epochs=2", "recipe.block_kd.int8.epochs=2"]
KILLED_AT = 6  # of eight steps; an epoch has four
JOBS = {
    "teacher": [],
    "block_kd": ["block=stage1_0"],
    "supernet": [f"space={SPACE}"],
    "finetune": ["subnet=min", f"space={SPACE}"],
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoints below a folder."""
    files = {file: torch.load(file, weights_only=True)["state_dict"] for file in sorted(folder.rglob("*.pth"))}
    return {f"{file} {name}": value for file, state in files.items() for name, value in state.items()}


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["off", "deploy"])
@pytest.mark.parametrize("job", [*JOBS])
def test_a_training_killed_within_an_epoch_ends_alike(
    int8_world: World, run_stage: RunStage, monkeypatch: pytest.MonkeyPatch, job: str, quant: str
) -> None:
    world = int8_world
    given = [*world.settings, *TRAINED, *JOBS[job], f"quant={quant}"]
    if (job, quant) == ("block_kd", "deploy"):
        run_stage("teacher", *given, "max_epochs=1")
    before = weights(world.layout.root)
    run_stage(job, *given)
    whole = weights(world.layout.root)
    assert any(name not in before or not torch.equal(before[name], value) for name, value in whole.items())
    steps: list[int] = []
    check = LossWatch.check

    def killed(watch: LossWatch, losses: Mapping[str, float], step: int) -> None:
        steps.append(step)
        if steps.count(KILLED_AT) == 1 and step == KILLED_AT:
            raise Killed
        check(watch, losses, step)

    monkeypatch.setattr(LossWatch, "check", killed)
    with pytest.raises(Killed):
        run_stage(job, *given)
    run_stage(job, *given)
    assert steps == [*range(KILLED_AT + 1), *range(KILLED_AT, 8)]
    found = weights(world.layout.root)
    assert found.keys() == whole.keys()
    assert [name for name, value in whole.items() if not torch.equal(value, found[name])] == []
