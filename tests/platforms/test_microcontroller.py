"""A microcontroller's memory: what fits, and what is told of what does not."""

from pathlib import Path

import pytest

from spaceevo.errors import ExportError
from spaceevo.platforms.microcontroller import Microcontroller, check_memory
from spaceevo.runtimes.random_program import random_program
from spaceevo.space.description import parse_space
from spaceevo.space.placement import subnet_blocks

MEMBER = parse_space("digits-222-110")
PROGRAM = random_program(subnet_blocks(MEMBER, MEMBER.largest))  # 40.9 kB of arena, 172.6 kB of file


def test_memory_is_told_in_kb() -> None:
    found = check_memory(PROGRAM, 41, 173)
    assert found == pytest.approx({"arena_kb": 40.864, "flash_kb": 172.616}, rel=1e-3)
    more = check_memory(PROGRAM, None, None, {"space": "x" * 1000})
    assert more["flash_kb"] - found["flash_kb"] == pytest.approx(1.0, abs=0.02)


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    with pytest.raises(ExportError, match=r"needs 40\.9 kB of arena, platform\.arena_kb = 40; take a smaller subnet"):
        check_memory(PROGRAM, 40, None)
    with pytest.raises(ExportError, match=r"needs 172\.\d kB of flash, platform\.flash_kb = 100"):
        check_memory(PROGRAM, None, 100)
    both = r"needs 40\.9 kB of arena, platform\.arena_kb = 40; 172\.\d kB of flash, platform\.flash_kb = 100; take"
    with pytest.raises(ExportError, match=both):
        check_memory(PROGRAM, 40, 100)


def test_the_platform_refuses_too(tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro")
    device = Microcontroller("mcu", "digits", str(tmp_path), arena_kb=40)
    with pytest.raises(ExportError, match="platform.arena_kb = 40"):
        device.compile(PROGRAM)
    assert Microcontroller("mcu", "digits", str(tmp_path), arena_kb=41).compile(PROGRAM)
