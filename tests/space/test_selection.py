from typing import Any

import pytest

from spaceevo.errors import ConfigError
from spaceevo.space.description import superspace
from spaceevo.space.selection import parse_blocks, parse_windows

DIGITS = superspace("digits")


def test_blocks_by_name_by_stage_and_all() -> None:
    assert parse_blocks(DIGITS, "stage2_1") == [("stage2", 1)]
    assert parse_blocks(DIGITS, "stage2") == [("stage2", 0), ("stage2", 1), ("stage2", 2)]
    assert parse_blocks(DIGITS, ["stage3_0", "stage3"]) == [("stage3", 0), ("stage3", 1), ("stage3", 2)]
    assert len(parse_blocks(DIGITS, "all")) == 9
    with pytest.raises(ConfigError, match="unknown block 'stage9' of superspace digits; allowed: all, stage1, "):
        parse_blocks(DIGITS, "stage9")


def test_windows_one_some_and_all() -> None:
    mobilew = superspace("mobilew")
    assert parse_windows(DIGITS, None) == {0, 1}
    assert parse_windows(mobilew, None) == set(range(7))
    assert parse_windows(mobilew, 6) == {6}
    assert parse_windows(mobilew, [0, 5]) == {0, 5}


@pytest.mark.parametrize("window", [7, -1, [0, 9], "first"])
def test_unknown_windows(window: Any) -> None:
    with pytest.raises(ConfigError, match="of superspace mobilew; allowed: 0…6"):
        parse_windows(superspace("mobilew"), window)
