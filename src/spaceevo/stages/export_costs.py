"""What exported files cost on this machine: sizes, latencies, and where the INT8 files' time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from spaceevo.artifacts import write_csv
from spaceevo.export.bundle import PRECISIONS
from spaceevo.report.latency import draw_operators
from spaceevo.runtimes.base import Profile
from spaceevo.runtimes.machine import machine_name
from spaceevo.runtimes.registry import runtime_for
from spaceevo.runtimes.timing import time_models


def file_costs(
    files: Mapping[str, Path], formats: Sequence[str], repeats: int, output: Path
) -> tuple[dict[str, float], dict[str, Path]]:
    """Measure files side by side, and the operators of the INT8 ones.

    Args:
        files: exported files by name, e.g. `onnx_int8`.
        formats: their formats.
        repeats: timings of each.
        output: folder for tables and pictures of the operators.

    Returns:
        Figures by name (kB, ms), and the tables and pictures.
    """
    runtimes = {f"{format}_{of}": runtime_for(format) for format in formats for of in PRECISIONS}
    contents = {name: files[name].read_bytes() for name in runtimes}
    sessions = {name: runtime.load(contents[name]) for name, runtime in runtimes.items()}
    timings = time_models(sessions, lambda session: session, repeats)
    figures = {f"{name}_file_kb": len(content) / 1e3 for name, content in contents.items()}
    figures |= {f"{name}_latency_ms": timing.latency_ms for name, timing in timings.items()}
    figures |= {
        f"{format}_int8_speedup": timings[f"{format}_fp32"].latency_ms / timings[f"{format}_int8"].latency_ms
        for format in formats
    }
    written: dict[str, Path] = {}
    for format in formats:
        profile = runtime_for(format).profile(contents[f"{format}_int8"], repeats)
        if profile.whole_ms is not None:
            figures[f"{format}_operators_ms"] = sum(operator.least_ms for operator in profile.operators)
            figures[f"{format}_operators_whole_ms"] = profile.whole_ms
        written |= _write_operators(output, format, profile)
    return figures, written


def _write_operators(output: Path, format: str, profile: Profile) -> dict[str, Path]:
    """Write and draw the times of a file's operators; return what was written."""
    table, drawing = (output / f"profile_{format}.{suffix}" for suffix in ("csv", "png"))
    write_csv(table, [{"stage": operator.stage, **operator._asdict()} for operator in profile.operators])
    apart = "" if profile.whole_ms is None else f", whole {profile.whole_ms:.3f} ms, operators one by one"
    rows = [(operator.stage, operator.kind, operator.least_ms) for operator in profile.operators]
    draw_operators(drawing, f"{machine_name()}\nINT8 {format}{apart}", rows)
    return {f"{format}_profile": table, f"{format}_profile_picture": drawing}
