"""Job fit_latency: block latencies from published tables of whole stages."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spaceevo.artifacts import Component, fingerprint
from spaceevo.artifacts.shell import quoted
from spaceevo.artifacts.values import InnerShare
from spaceevo.errors import ConfigError
from spaceevo.latency.predictor import BlockLatency
from spaceevo.latency.roofline import Roofline, family_of, shared_costs, unmeasured_errors
from spaceevo.latency.stage_tables import StageRows, solve_blocks
from spaceevo.latency.table import LatencyTable
from spaceevo.platforms.base import Platform
from spaceevo.search.lut import lut_file_name, lut_keys, read_lut_file
from spaceevo.space.encoding import parse_substage
from spaceevo.space.placement import PlacedBlock, block_key, fixed_blocks, place
from spaceevo.space.superspace import Superspace
from spaceevo.space.walk import output_hw
from spaceevo.stages.job import Input, Outcome, file_input, override_key, value_input
from spaceevo.stages.selection import SuperspaceJob
from spaceevo.stages.settings import Seed, SuperspaceSettings
from spaceevo.terminal import progress

LEAST_MS = 1e-6
PERCENTS = (1, 5, 10)


@dataclass(frozen=True)
class FitLatencyRecipe:
    """Says how the fit is checked."""

    held_out: InnerShare  # share of the rows that the check leaves out


@dataclass(frozen=True, kw_only=True)
class FitLatencySettings(SuperspaceSettings):
    """Says which tables are solved, and for which platform."""

    platform: Component[Platform]  # whose table is written; it is not made, since its table is not there yet
    seed: Seed  # decides which rows are held out
    source: Path | None  # folder of the stage tables, `<stage>_<block>_<window>.csv`
    exact: Path | None  # JSON file of block latencies that are known exactly
    recipe: FitLatencyRecipe  # how the fit is checked


class FitLatencyJob(SuperspaceJob[FitLatencySettings]):
    """Solves block latencies from stage tables, checks them on rows held out, and writes a platform's table."""

    name = "fit_latency"
    main_figure = "within_1_percent"

    @property
    def platform_name(self) -> str:
        """Name of the platform."""
        return str(self.settings.platform.node["name"])

    @cached_property
    def files(self) -> dict[str, Path]:
        """The stage tables by name.

        Raises:
            ConfigError: no folder is set, or it lacks some of them.
        """
        folder = self.settings.source
        if folder is None:
            raise ConfigError(
                "source = null; set it to the folder of published stage tables, <stage>_<block>_<window>.csv"
            )
        names = [lut_file_name(self.superspace, key) for key in lut_keys(self.superspace)]
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ConfigError(
                f"source = {folder} lacks {len(missing)} of the {len(names)} stage tables of superspace "
                f"{self.superspace.name}, e.g. {missing[0]}; set source to a folder that has them"
            )
        return {name: folder / name for name in names}

    @property
    def table_file(self) -> Path:
        """The file to write.

        Raises:
            ConfigError: the platform has no table of its own.
        """
        path = self.settings.platform.node.get("table")
        if not isinstance(path, str):
            raise ConfigError(
                f"platform.table = {path} of {self.platform_name}; set it to the file to write, or take platform=vnni"
            )
        return Path(path).expanduser()

    def inputs(self) -> Mapping[str, Input]:
        """Return the stage tables, the exact block latencies where there are any, and where the result goes."""
        exact = {} if self.settings.exact is None else {"exact": self.settings.exact}
        found = {name: file_input(path) for name, path in {**self.files, **exact}.items()}
        return {**found, "table": value_input(str(self.table_file))}

    def work(self) -> Outcome:
        """Read, hold out, solve, check, solve with all rows, write."""
        exact_ms = LatencyTable.load(self.settings.exact).entries if self.settings.exact is not None else {}
        held_out = self.settings.recipe.held_out
        rows = StageRows.of(_rows(self.superspace, self.files))
        is_held_out = np.random.default_rng(self.settings.seed).random(len(rows.latency_ms)) < held_out
        checked = rows.select(is_held_out)
        solved = solve_blocks(rows.select(~is_held_out), exact_ms)
        errors = np.abs(checked.occurrences @ solved / checked.latency_ms - 1)
        table = self._table(rows, exact_ms)
        table.save(self.table_file)
        figures = {
            "rows": len(rows.latency_ms),
            "blocks": len(rows.blocks),
            "exact_blocks": sum(key in exact_ms for key in rows.keys),
            **_exact_rows(rows, exact_ms),
            "held_out_rows": int(is_held_out.sum()),
            **{f"within_{p}_percent": round(100 * float((errors <= p / 100).mean()), 2) for p in PERCENTS},
            **_unmeasured(self.superspace, rows, table),
        }
        return Outcome(figures, {"table": self.table_file}, self._next(table))

    def _next(self, table: LatencyTable) -> str:
        """Let spaces be searched on the stage tables, which are look-up tables too, with what was fitted."""
        commands, superspace = self.workspace.commands, self.superspace
        changes = [f"superspace={superspace.name}", f"platform={self.platform_name}"]
        changes.append(f"paths.lut={quoted(self.settings.source)}")
        fixed = {block_key(*block) for r in superspace.block_resolutions for block in fixed_blocks(superspace, r)}
        is_set = "platform.fixed_latency_ms" in map(override_key, commands.given)
        if not (fixed <= table.entries.keys() or is_set):
            changes.append("platform.unknown_blocks=fitted")
        return commands("space_search", *changes, without=("source", "exact"))

    def _table(self, rows: StageRows, exact_ms: dict[str, float]) -> LatencyTable:
        """All blocks of the rows, the exact ones as they are, and the fixed stages' where they are known."""
        solved = dict(zip(rows.keys, (round(float(ms), 6) for ms in solve_blocks(rows, exact_ms)), strict=True))
        entries = {key: max(ms, LEAST_MS) for key, ms in solved.items()} | exact_ms
        blocks = list(rows.blocks) + [b for b in _fixed_choices(self.superspace) if block_key(*b) in exact_ms]
        provenance = {
            "platform": self.platform_name,
            "machine": f"that of the stage tables {fingerprint([path.name for path in self.files.values()])}",
            "source": str(self.settings.source),
            "exact": str(self.settings.exact),
        }
        counts = dict(zip(rows.keys, map(int, rows.counts), strict=True))
        latency_ms = [entries[block_key(*block)] for block in blocks]
        fixed = {family_of(spec) for spec, _ in _fixed_choices(self.superspace)}
        model = Roofline.fit(blocks, latency_ms).with_families(fixed, shared_costs(blocks, latency_ms))
        return LatencyTable(entries, provenance, counts, model)


def _rows(superspace: Superspace, files: dict[str, Path]) -> Iterator[tuple[list[PlacedBlock], float]]:
    with progress() as bar:
        for key in bar.track(list(lut_keys(superspace)), description="reading stage tables"):
            space = superspace.stage_space(superspace.searched[key.stage].name, key.block)
            for row in read_lut_file(files[lut_file_name(superspace, key)]):
                yield place(space.specs(parse_substage(row.substage), row.cin), row.hw), row.latency_ms


def _fixed_choices(superspace: Superspace) -> Iterator[PlacedBlock]:
    """List every block that first_conv, stage0 and head can be."""
    for template in (stage for stage in superspace.stages if not stage.is_searched):
        space = superspace.stage_space(template.name)
        for resolution in superspace.supernet_resolutions:
            hw = superspace.input_hw(template.name, resolution)
            for position in range(max(space.depths)):
                specs = list(space.block_specs(position))
                yield from ((spec, hw) for spec in specs)
                hw = output_hw(specs[0], hw)


def _unmeasured(superspace: Superspace, rows: StageRows, table: LatencyTable) -> dict[str, Any]:
    """What the model says of the stages that are not searched where no table tells, and how far off it may be."""
    fixed = {block_key(*block): block for block in _fixed_choices(superspace)}
    measured = {family_of(spec) for spec, _ in [*rows.blocks, *(b for k, b in fixed.items() if k in table.entries)]}
    if all(family_of(spec) in measured for spec, _ in fixed.values()):
        return {}
    platform = BlockLatency(table, interpolate=True)
    found_ms = {r: platform.blocks_ms(fixed_blocks(superspace, r)) for r in superspace.block_resolutions}
    errors = unmeasured_errors(rows.blocks, [table.entries[key] for key in rows.keys])
    return {
        **{f"fixed_{resolution}_latency_ms": round(ms, 3) for resolution, ms in found_ms.items()},
        "other_families_error_percent": [
            {"family": name, "median_error_percent": round(100 * error, 1)} for name, error in errors.items()
        ],
    }


def _exact_rows(rows: StageRows, exact_ms: Mapping[str, float]) -> dict[str, float]:
    """How well exact block latencies explain the rows that they cover whole."""
    latency = np.array([exact_ms.get(key, 0.0) for key in rows.keys])
    unknown = np.array([key not in exact_ms for key in rows.keys], np.float64)
    covered = (rows.occurrences @ unknown) == 0
    if not covered.any():
        return {"rows_of_exact_blocks": 0}
    difference = np.abs(rows.occurrences @ latency - rows.latency_ms)[covered]
    return {"rows_of_exact_blocks": int(covered.sum()), "exact_max_difference_ms": float(f"{difference.max():.3g}")}
