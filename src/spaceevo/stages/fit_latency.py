"""Stage fit_latency: block latencies from published tables of whole stages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaceevo.artifacts import fingerprint
from spaceevo.errors import ConfigError
from spaceevo.latency.roofline import Roofline
from spaceevo.latency.stage_tables import StageRows, solve_blocks
from spaceevo.latency.table import LatencyTable
from spaceevo.search.lut import lut_file_name, lut_keys, read_lut_file
from spaceevo.space.encoding import parse_substage
from spaceevo.space.placement import PlacedBlock, block_key, place
from spaceevo.space.superspace import Superspace
from spaceevo.space.walk import output_hw
from spaceevo.stages.base import Context, Outcome, StageCallback, progress


class FitLatencyStage(StageCallback):
    """Solves block latencies from stage tables, checks them on rows held out, and writes a platform's table."""

    name = "fit_latency"
    main_figure = "within_1_percent"

    def inputs(self, context: Context) -> dict[str, Path]:
        """The stage tables, and the exact block latencies where there are any."""
        files = _stage_files(context)
        return files if context.config.exact is None else {**files, "exact": Path(context.config.exact)}

    def work(self, context: Context) -> Outcome:
        """Read, hold out, solve, check, solve with all rows, write."""
        files, exact_ms = _stage_files(context), dict[str, float]()
        if context.config.exact is not None:
            exact_ms = LatencyTable.load(Path(context.config.exact)).entries
        rows = StageRows.of(_rows(context.superspace, files))
        held_out = np.random.default_rng(context.seed).random(len(rows.latency_ms)) < float(context.recipe["held_out"])
        checked = rows.select(held_out)
        solved = solve_blocks(rows.select(~held_out), exact_ms)
        errors = np.abs(checked.occurrences @ solved / checked.latency_ms - 1)
        table = self._table(context, rows, exact_ms)
        path = Path(context.config.platform.table).expanduser()
        table.save(path)
        figures = {
            "rows": len(rows.latency_ms),
            "blocks": len(rows.blocks),
            "exact_blocks": sum(key in exact_ms for key in rows.keys),
            **_exact_rows(rows, exact_ms),
            "held_out_rows": int(held_out.sum()),
            **{f"within_{percent}_percent": _share(errors, percent) for percent in (1, 5, 10)},
        }
        return Outcome(
            figures,
            {"table": path},
            context.command("space_search", f"platform={context.config.platform.name}", "latency_constraint=<ms>"),
        )

    def _table(self, context: Context, rows: StageRows, exact_ms: dict[str, float]) -> LatencyTable:
        """All blocks of the rows, the exact ones as they are, and the fixed stages' where they are known."""
        solved = dict(zip(rows.keys, (round(float(ms), 6) for ms in solve_blocks(rows, exact_ms)), strict=True))
        entries = {key: max(ms, 1e-6) for key, ms in solved.items()} | exact_ms
        blocks = list(rows.blocks) + [b for b in _fixed_choices(context.superspace) if block_key(*b) in exact_ms]
        provenance = {
            "platform": str(context.config.platform.name),
            "machine": f"that of the stage tables {fingerprint([str(f.name) for f in _stage_files(context).values()])}",
            "source": str(context.config.source),
            "exact": str(context.config.exact),
        }
        counts = dict(zip(rows.keys, map(int, rows.counts), strict=True))
        model = Roofline.fit(blocks, [entries[block_key(*block)] for block in blocks])
        return LatencyTable(entries, provenance, counts, model)


def _stage_files(context: Context) -> dict[str, Path]:
    if context.config.source is None:
        raise ConfigError("source = null; set it to the folder of published stage tables, <stage>_<block>_<window>.csv")
    folder = Path(context.config.source)
    names = [lut_file_name(context.superspace, key) for key in lut_keys(context.superspace)]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"source = {folder} lacks {len(missing)} of the {len(names)} stage tables of superspace "
            f"{context.superspace.name}, e.g. {missing[0]}; set source to a folder that has them"
        )
    return {name: folder / name for name in names}


def _rows(superspace: Superspace, files: dict[str, Path]) -> Iterator[tuple[list[PlacedBlock], float]]:
    with progress() as bar:
        for key in bar.track(list(lut_keys(superspace)), description="reading stage tables"):
            space = superspace.stage_space(superspace.searched[key.stage].name, key.block)
            for row in read_lut_file(files[lut_file_name(superspace, key)]):
                yield place(space.specs(parse_substage(row.substage), row.cin), row.hw), row.latency_ms


def _fixed_choices(superspace: Superspace) -> Iterator[PlacedBlock]:
    """Every block that first_conv, stage0 and head can be."""
    for template in superspace.stages:
        if template.is_searched:
            continue
        space = superspace.stage_space(template.name)
        for resolution in superspace.supernet_resolutions:
            hw = superspace.input_hw(template.name, resolution)
            for position in range(max(space.depths)):
                specs = list(space.block_specs(position))
                yield from ((spec, hw) for spec in specs)
                hw = output_hw(specs[0], hw)


def _exact_rows(rows: StageRows, exact_ms: dict[str, float]) -> dict[str, Any]:
    """How well exact block latencies explain the rows that they cover whole."""
    latency = np.array([exact_ms.get(key, 0.0) for key in rows.keys])
    unknown = np.array([key not in exact_ms for key in rows.keys], np.float64)
    covered = (rows.occurrences @ unknown) == 0
    if not covered.any():
        return {"rows_of_exact_blocks": 0}
    difference = np.abs(rows.occurrences @ latency - rows.latency_ms)[covered]
    return {"rows_of_exact_blocks": int(covered.sum()), "exact_max_difference_ms": float(f"{difference.max():.3g}")}


def _share(errors: NDArray[np.float64], percent: int) -> float:
    return round(100 * float((errors <= percent / 100).mean()), 2)
