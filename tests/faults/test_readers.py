"""Files damaged at random: every reader takes them or says in a line what is wrong, soon and in little memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from spaceevo.errors import SpaceEvoError, fault_line
from tests.faults.readers import READERS, Reader
from tests.faults.readers_of_runs import READERS_OF_RUNS

SECONDS, MEBIBYTES = 1.0, 200
ALL = READERS | READERS_OF_RUNS
TAKES_ALL = ("evaluations", "lock", "list of a tar", "sorted tables")  # what is damaged is left out, or made anew


@pytest.fixture
def spent() -> Iterator[Callable[[], tuple[float, float]]]:
    """Seconds of this process, and MiB that its memory ever grew by, since the last call."""
    last = [0.0, 0.0]

    def since() -> tuple[float, float]:
        now = [time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]
        found = now[0] - last[0], now[1] - last[1]
        last[:] = now
        return found

    since()
    yield since


def try_damaged(reader: Reader, folder: Path, seeds: range, spent: Callable[[], tuple[float, float]]) -> int:
    """Read so many damaged files; return how many were refused."""
    path, refused = folder / reader.file, 0
    reader.write(path)
    whole = path.read_bytes()
    with suppress(SpaceEvoError):
        reader.read(path)
    spent()
    for seed in seeds:
        path.write_bytes(reader.damage(whole, Random(seed)))
        try:
            reader.read(path)
        except SpaceEvoError as error:
            refused += 1
            line = fault_line(error) or ""
            assert line, seed
            assert "\n" not in line, seed
            assert len(line) < 500, seed
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}") from error
        seconds, mebibytes = spent()
        assert seconds < SECONDS, seed
        assert mebibytes < MEBIBYTES, seed
    return refused


@pytest.mark.parametrize("name", ALL)
def test_a_damaged_file_is_told_in_a_line(name: str, tmp_path: Path, spent: Callable[[], tuple[float, float]]) -> None:
    refused = try_damaged(ALL[name], tmp_path, range(15), spent)
    assert refused > 3 or name in TAKES_ALL


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_ten_thousand_damaged_files(name: str, tmp_path: Path, spent: Callable[[], tuple[float, float]]) -> None:
    refused = try_damaged(ALL[name], tmp_path, range(1_000, 1_000 + 10_000 // len(ALL)), spent)
    assert refused > 100 or name in TAKES_ALL
