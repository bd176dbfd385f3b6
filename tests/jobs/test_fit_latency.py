"""What stage tables tell of stages that they do not have: stem, stage0 and head."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

import spaceevo
from spaceevo.errors import TableError
from spaceevo.latency.roofline import Roofline, block_work
from spaceevo.latency.table import LatencyTable
from spaceevo.platforms.base import Platform
from spaceevo.search.lut import LutRow, lut_file_name, lut_keys, write_lut_file
from spaceevo.space.encoding import format_substage
from spaceevo.space.operators import sample_substage
from spaceevo.space.placement import PlacedBlock, fixed_blocks, place
from tests.jobs.conftest import RunJob

DIGITS = spaceevo.superspace("digits")
COSTS = {"constant": 0.01, "outputs": 0.5, "pointwise_mmacs": 0.02, "dense_mmacs": 0.03, "weights": 0.1}


def truth(block: PlacedBlock) -> float:
    """A device on which all block types cost the same for the same work."""
    return sum(COSTS.get(kind, 0.0) * count for kind, count in block_work(*block).items())


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    rng, folder = Random(0), tmp_path / "tables"
    for key in lut_keys(DIGITS):
        stage = DIGITS.searched[key.stage].name
        space, rows = DIGITS.stage_space(stage, key.block), []
        for _ in range(30):
            blocks, cin = sample_substage(space, rng), rng.choice(space.cins)
            hw = DIGITS.input_hw(stage, rng.choice(DIGITS.block_resolutions))
            ms = sum(map(truth, place(space.specs(blocks, cin), hw)))
            rows.append(LutRow(format_substage(blocks), cin, hw, 1.0, 1.0, 1.0, ms))
        write_lut_file(folder / lut_file_name(DIGITS, key), rows)
    return folder


@pytest.mark.slow
def test_stem_and_head_cost_what_searched_blocks_tell_and_the_error_is_said(
    tiny: RunJob, tables: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pixel4.json"
    given = ("platform=pixel4", f"platform.table={file}", f"source={tables}")
    result = tiny("fit_latency", *given)
    assert "platform.unknown_blocks=fitted" in result.next_command  # or no space could be scored
    figures = result.figures
    for resolution in DIGITS.block_resolutions:
        expected = sum(map(truth, fixed_blocks(DIGITS, resolution)))
        assert figures[f"fixed_{resolution}_latency_ms"] == pytest.approx(expected, rel=0.1)
    errors = {row["family"]: row["median_error_percent"] for row in figures["other_families_error_percent"]}
    assert errors.pop("ResNet relu") == pytest.approx(15, abs=5)  # no other has k×k convolutions to tell their cost
    assert list(errors.values()) == pytest.approx([0, 0], abs=1)
    member = spaceevo.parse_space("digits-012-000")
    with pytest.raises(TableError, match="platform.unknown_blocks=fitted predicts them"):
        Platform("pixel4", str(file)).subnet_ms(member, member.smallest)
    fitted = Platform("pixel4", str(file), unknown_blocks="fitted")
    assert fitted.fixed_ms(DIGITS)[24] == pytest.approx(figures["fixed_24_latency_ms"], abs=1e-3)
    assert fitted.subnet_ms(member, member.smallest) > figures["fixed_24_latency_ms"]


def test_a_remedy_that_does_not_help_is_not_named(tmp_path: Path) -> None:
    """A table of before knows nothing of stem and head."""
    block = place(DIGITS.stage_space("stage1", 0).specs(DIGITS.stage_space("stage1", 0).smallest, 16), 12)
    LatencyTable({}, model=Roofline.fit(block, [1.0] * len(block))).save(tmp_path / "old.json")
    with pytest.raises(TableError, match=r"platform\.fixed_latency_ms=… \(ms\) stands for first_conv") as raised:
        Platform("pixel4", str(tmp_path / "old.json")).fixed_ms(DIGITS)
    assert "fitted predicts" not in str(raised.value)
