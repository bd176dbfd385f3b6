"""Full and read-only disks: one line with the path, and the same command goes on when that is mended."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from spaceevo.errors import fault_line
from tests.faults.conftest import Start, left
from tests.faults.layer import EVENTS, faults

FULL, READ_ONLY = (errno.ENOSPC, ("open", "os.mkdir")), (errno.EROFS, EVENTS)


@pytest.mark.parametrize(
    ("job", "number", "events"),
    [
        ("cost", *FULL),
        ("cost", *READ_ONLY),
        *(
            pytest.param(job, *disk, marks=pytest.mark.slow)
            for job, disk in product(["block_lut", "space_search", "subnet_search", "teacher"], (FULL, READ_ONLY))
        ),
    ],
)
def test_a_job_on_a_full_or_read_only_disk_says_where_and_goes_on_later(
    tmp_path: Path, start: Callable[..., Start], job: str, number: int, events: tuple[str, ...]
) -> None:
    begin = tmp_path.parent / f"{tmp_path.name}-begin"
    shutil.copytree(tmp_path, begin)
    run = start(job)
    with faults(tmp_path) as operations:
        run()
    whole, count = left(tmp_path), len(operations)
    for first in (count // 2, 1):
        shutil.rmtree(tmp_path)
        shutil.copytree(begin, tmp_path)

        def fault(path: str) -> OSError:
            return OSError(number, os.strerror(number), path)

        with faults(tmp_path, first, fault, events), pytest.raises(OSError, match=os.strerror(number)) as caught:
            run()
        line = fault_line(caught.value) or ""
        assert os.strerror(number) in line
        assert len(line) < 500
        assert line.startswith(str(tmp_path))
        run()
        assert left(tmp_path) == whole
