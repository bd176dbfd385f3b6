"""What a sweep found: one table and one picture over its jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig
from rich.table import Table

from spaceevo.artifacts import StageResult
from spaceevo.report.spaces import draw_sweep
from spaceevo.stages.base import console, shown, write_csv

CLOCK_SLACK_S = 1.0
"""File times may lag behind the clock; two sweeps are always further apart."""


def compare_jobs(config: DictConfig, stage: str, started_s: float, drawn: Sequence[str]) -> None:
    """Write and print the figures of every job of a sweep, in order.

    Args:
        config: the sweep's config.
        stage: the stage that was swept.
        started_s: when the sweep began, in seconds since the epoch.
        drawn: the figures to draw.
    """
    folder = Path(config.hydra.sweep.dir).absolute()
    jobs = [job for job in _jobs(folder, started_s) if job[1].stage == stage]
    if not jobs:
        return
    swept = _swept([settings for settings, _ in jobs])
    rows = [{**{key: settings.get(key) for key in swept}, **_flat(result.figures)} for settings, result in jobs]
    write_csv(folder / "sweep.csv", rows)
    setting = swept[0] if len(swept) == 1 else "job"
    values = [row[setting] if len(swept) == 1 else number for number, row in enumerate(rows)]
    draw_sweep(folder / "sweep.png", setting, values, {name: [row[name] for row in rows] for name in drawn})
    table = Table(title=f"{stage} · {len(rows)} jobs", title_justify="left")
    names = [*swept, "space", *drawn]
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(f"{row[n]:.4g}" if isinstance(row[n], float) else str(row[n]) for n in names))
    console.print(table)
    console.print(f"  table: {shown(folder / 'sweep.csv')}\n  picture: {shown(folder / 'sweep.png')}")


def _jobs(folder: Path, started_s: float) -> list[tuple[dict[str, Any], StageResult]]:
    """Overrides and result of every job since the sweep began."""
    files = [path for path in folder.glob("*/.hydra/overrides.yaml") if path.parents[1].name.isdecimal()]
    jobs = []
    for file in sorted(files, key=lambda path: int(path.parents[1].name)):
        result = StageResult.load(file.parents[1])
        if result is not None and file.stat().st_mtime >= started_s - CLOCK_SLACK_S:
            pairs = (text.lstrip("+").partition("=") for text in yaml.safe_load(file.read_text(encoding="utf-8")))
            jobs.append(({name: _value(value) for name, _, value in pairs}, result))
    return jobs


def _value(text: str) -> Any:
    """A number where the text is one."""
    try:
        return float(text)
    except ValueError:
        return text


def _swept(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings that differ between jobs."""
    names = dict.fromkeys(name for job in settings for name in job)
    return [name for name in names if len({str(job.get(name)) for job in settings}) > 1]


def _flat(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if not isinstance(value, list | dict)}
