"""What a sweep found: one table and one picture over its jobs."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from spaceevo.artifacts import StageResult, fingerprint, read_yaml, write_csv
from spaceevo.jobs.runner import keep, package_versions
from spaceevo.report.spaces import draw_sweep
from spaceevo.terminal import print_rows

Swept = tuple[dict[str, Any], StageResult]  # Overrides and result of one job of a sweep
OVERRIDES = ".hydra/overrides.yaml"
CLOCK_SLACK_S = 1.0  # File times may lag behind the clock; two sweeps are always further apart


def compare_jobs(config: DictConfig, job: str, started_s: float, drawn: Sequence[str]) -> None:
    """Write, draw and print the figures of every job of a sweep that began at `started_s`, in order."""
    folder = Path(config.hydra.sweep.dir).absolute()
    jobs = [found for found in _jobs(folder, started_s) if found[1].stage == job]
    if not jobs:
        return
    rows, swept = _rows(jobs)
    write_csv(folder / "sweep.csv", rows)
    setting = swept[0] if len(swept) == 1 else "job"
    values = [row[setting] if len(swept) == 1 else number for number, row in enumerate(rows)]
    draw_sweep(folder / "sweep.png", setting, values, {name: [row[name] for row in rows] for name in drawn})
    print_rows(rows, {name: name for name in (*swept, "space", *drawn)}, f"{job} · {len(rows)} jobs")
    result = StageResult(
        stage=f"{job}_sweep",
        fingerprint=fingerprint([found.fingerprint for _, found in jobs]),
        seed=int(config.seed),
        figures={"jobs": rows},
        outputs={"table": str(folder / "sweep.csv"), "picture": str(folder / "sweep.png")},
        versions=package_versions(),
        seconds=round(time.time() - started_s, 1),
    )
    keep(config, result, folder, result.stage)


def _rows(jobs: Sequence[Swept]) -> tuple[list[dict[str, Any]], list[str]]:
    """What was set and found in every job, and which settings differ."""
    names = dict.fromkeys(name for settings, _ in jobs for name in settings)
    swept = [name for name in names if len({str(settings.get(name)) for settings, _ in jobs}) > 1]
    rows = [
        {name: settings.get(name) for name in swept}
        | {name: value for name, value in result.figures.items() if not isinstance(value, list | dict)}
        for settings, result in jobs
    ]
    return rows, swept


def job_folders(folder: Path, started_s: float) -> list[Path]:
    """List the folders of the jobs since the sweep began, in order; those of earlier sweeps may lie beside them."""
    jobs = [path for path in folder.glob("*") if path.name.isdecimal() and (path / OVERRIDES).exists()]
    recent = [job for job in jobs if (job / OVERRIDES).stat().st_mtime >= started_s - CLOCK_SLACK_S]
    return sorted(recent, key=lambda job: int(job.name))


def _jobs(folder: Path, started_s: float) -> list[Swept]:
    """Overrides and result of every job since the sweep began."""
    jobs = []
    for job in job_folders(folder, started_s):
        result = StageResult.load(job)
        if result is not None:
            overrides = read_yaml(job / OVERRIDES)
            pairs = (text.lstrip("+").partition("=") for text in overrides)
            jobs.append(({name: _value(value) for name, _, value in pairs}, result))
    return jobs


def _value(text: str) -> Any:
    """A number where the text is one."""
    try:
        return float(text)
    except ValueError:
        return text
