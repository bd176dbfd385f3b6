"""Look-up tables that stand for those that a job would make: its sub-stages, with figures like those of a few rows."""

from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean, geometric_mean

from spaceevo.search.lut import LutKey, LutRow, lut_file_name, lut_record, read_lut_file, write_lut_file
from spaceevo.space.cost import blocks_cost
from spaceevo.space.encoding import format_substage
from spaceevo.stages.block_lut import BlockLutJob

MOST_ROWS = 50  # of a table
SPREAD = (0.9, 1.1)  # of losses around what their size lets expect
FALL = 0.1  # losses go with this power of 1 / multiply-accumulates; in the demo's three stages with .19, .02 and .09


def fill(job: BlockLutJob, folder: Path) -> None:
    """Give the tables of a few rows in a folder as many as the job's would have, so that spaces can be scored by them.

    Losses are spread around the mean of those few of all tables, since students that have hardly learned tell no block
    types apart, and lower the more multiply-accumulates a sub-stage has, among those of its stage; so a space is chosen
    like the one to come. Latencies are in proportion to the multiply-accumulates, by those rows or all rows.
    """
    paths = {key: folder / lut_file_name(job.superspace, key) for key in job.blocks}
    found = {path: read_lut_file(path) for path in paths.values() if path.is_file()}
    every = [row for known in found.values() for row in known]
    loss, count = fmean(row.loss for row in every), min(MOST_ROWS, job.settings.recipe.samples)
    tables = {key: _rows(job, key, path.name, count) for key, path in paths.items()}
    typical = {
        stage: geometric_mean(row.mflops for key in paths if key.stage == stage for row in tables[key])
        for stage in {key.stage for key in paths}
    }
    for key, path in paths.items():
        known, rng = found.get(path, every), Random(path.name)
        ms = fmean(row.latency_ms / row.mflops for row in known)
        rows = [
            replace(
                row,
                loss=loss * rng.uniform(*SPREAD) * (typical[key.stage] / row.mflops) ** FALL,
                latency_ms=ms * row.mflops,
            )
            for row in tables[key]
        ]
        write_lut_file(path, rows)
        lut_record(path).unlink(missing_ok=True)  # it is not as it was made


def _rows(job: BlockLutJob, key: LutKey, file: str, count: int) -> list[LutRow]:
    """Sub-stages of a table, with their multiply-accumulates and parameters alone."""
    rows = []
    for one, placed in job.sampled(key, file, count):
        cost = blocks_cost([spec for spec, _ in placed], one.hw)
        rows.append(LutRow(format_substage(one.blocks), one.cin, one.hw, 1.0, cost.mmacs, cost.mparams, 1.0))
    return rows
