"""What whole chains of jobs share with the tests of single ones, and files as the published code left them."""

from pathlib import Path

import pytest
import torch

from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import set_quant
from spaceevo.search.lut import LutRow, lut_file_name, lut_keys, write_lut_file
from spaceevo.space.description import parse_space, superspace
from spaceevo.space.encoding import format_substage
from tests.jobs.conftest import compose, images, tiny
from tests.nn.published import published

__all__ = ["compose", "images", "tiny"]
DIGITS, SPACE = superspace("digits"), "digits-012-010"


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A supernet's file as released: foreign names, a state that training left."""
    supernet = Supernet(parse_space(SPACE), "published")
    set_quant(supernet, True)
    images = torch.randn(8, 3, 32, 32)
    for spec in (supernet.member.largest, supernet.member.smallest):
        supernet.activate(spec)
        supernet(images)
    torch.save({"state_dict": published(supernet.eval()), "epoch": 50}, tmp_path / "lsq.pth")
    return tmp_path / "lsq.pth"


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Stage tables of a few rows for every block and window."""
    for stage_key in lut_keys(DIGITS):
        stage = DIGITS.searched[stage_key.stage].name
        space = DIGITS.stage_space(stage, stage_key.block)
        rows = [
            LutRow(format_substage(blocks), cin, DIGITS.input_hw(stage, resolution), 1.0, 1.0, 0.1, 0.01 * len(blocks))
            for resolution in DIGITS.block_resolutions
            for blocks in (space.smallest, space.largest)
            for cin in space.cins
        ]
        write_lut_file(tmp_path / "tables" / lut_file_name(DIGITS, stage_key), rows)
    return tmp_path / "tables"
