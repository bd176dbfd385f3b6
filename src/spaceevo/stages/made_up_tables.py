"""Look-up tables that stand for those that a job would make: its sub-stages, with figures like those of a few rows."""

from pathlib import Path
from random import Random
from statistics import fmean

from spaceevo.search.lut import LutRow, lut_file_name, lut_record, read_lut_file, write_lut_file
from spaceevo.space.cost import blocks_cost
from spaceevo.space.encoding import format_substage
from spaceevo.stages.block_lut import BlockLutJob

MOST_ROWS = 50  # of a table
SPREAD = (0.5, 1.5)  # of losses around their mean


def fill(job: BlockLutJob, folder: Path) -> None:
    """Give the tables of a few rows in a folder as many as the job's would have, so that spaces can be scored by them.

    Losses are spread around the mean of those few, or of all tables where one has none; latencies are in proportion to
    the multiply-accumulates.
    """
    paths = {key: folder / lut_file_name(job.superspace, key) for key in job.blocks}
    found = {path: read_lut_file(path) for path in paths.values() if path.is_file()}
    every = [row for known in found.values() for row in known]
    for key, path in paths.items():
        known, rng = found.get(path, every), Random(path.name)
        loss, ms = fmean(row.loss for row in known), fmean(row.latency_ms / row.mflops for row in known)
        rows = []
        for one, placed in job.sampled(key, path.name, min(MOST_ROWS, job.settings.recipe.samples)):
            cost = blocks_cost([spec for spec, _ in placed], one.hw)
            figures = loss * rng.uniform(*SPREAD), cost.mmacs, cost.mparams, ms * cost.mmacs
            rows.append(LutRow(format_substage(one.blocks), one.cin, one.hw, *figures))
        write_lut_file(path, rows)
        lut_record(path).unlink(missing_ok=True)  # it is not as it was made
