"""Taps of a teacher that students cannot learn from are told before anything is trained."""

from collections.abc import Sequence

import pytest

from spaceevo.errors import ConfigError
from tests.stages.conftest import RunStage, World

MADE = r"at 24 pixels, but students of {} make {} of the {} of teacher\.taps\.{}; set it to a module of {}"


@pytest.mark.parametrize(
    ("stage", "taps", "fault"),
    [
        (
            "block_kd",
            ["stage3=layer4"],
            "stage3 = layer4 gives maps of 1×1 " + MADE.format("stage3", "2×2", "3×3", "stage2", "maps"),
        ),
        ("block_lut", ["stage3=layer4"], "stage3 = layer4 gives maps of 1×1"),
        ("block_kd", ["stage1=layer3"], "stage1 = layer3 gives maps of 2×2"),
        ("block_kd", ["stage2=layer4", "stage3=layer4"], "taps.stage2 = layer4 gives maps of 1×1"),
        (
            "block_kd",
            ["stage2=fc"],
            r"teacher\.taps\.stage2 = fc gives a tensor of shape \(1, 3\); set it to a module of maps",
        ),
    ],
)
def test_taps_of_another_size(run_stage: RunStage, world: World, stage: str, taps: Sequence[str], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault) as error:
        run_stage(stage, *world.settings, "teacher=resnet10", *(f"teacher.taps.{tap}" for tap in taps))
    assert len(str(error.value)) < 300
