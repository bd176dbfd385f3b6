"""Pictures of accuracy against cost: what was evaluated, asked, predicted and measured; INT8 beside fp32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spaceevo.report.picture import LABELS, picture

if TYPE_CHECKING:  # jobs that draw nothing start without matplotlib
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class PlatformFront:
    """Holds what is shown of one platform's front."""

    platform: str
    rows: Sequence[Mapping[str, Any]]  # subnets: `latency_ms` (predicted), `measured_ms` (or None), `held_out_top1`
    limits: Sequence[float]  # that were asked for, of the axis
    evaluated: Sequence[tuple[float, float]]  # axis and top-1 in percent of every evaluated subnet
    axis: str = "latency_ms"  # column of `rows` that the front is low in
    beside: str = ""  # what else was limited, in words


def draw_fronts(path: Path, fronts: Sequence[PlatformFront]) -> None:
    """Draw top-1 against latency or another cost, one platform beside the other."""
    with picture(path, columns=len(fronts), width=6.0) as axes:
        for axis, front in zip(axes, fronts, strict=True):
            _draw(axis, front)


def draw_precisions(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw top-1 against the measured latency of INT8 files, and dotted against that of the same subnets' fp32 files.

    Args:
        path: of the picture.
        rows: subnets: `top1` in percent that the search has told, `int8_ms` and `fp32_ms` of their files.
        title: of the picture.
    """
    ordered = sorted(rows, key=lambda row: row["int8_ms"])
    tops = [row["top1"] for row in ordered]
    with picture(path, width=6.0) as (axes,):
        axes.plot([row["int8_ms"] for row in ordered], tops, "o-", linewidth=1, color="C0", label="INT8")
        axes.plot([row["fp32_ms"] for row in ordered], tops, "x:", linewidth=1, color="C1", label="the same in fp32")
        axes.set(xlabel="measured latency, ms", ylabel="top-1 of test images, as searched, %", title=title)
        axes.legend()


def _draw(axis: Axes, front: PlatformFront) -> None:
    times, tops = zip(*front.evaluated, strict=True)
    axis.scatter(times, tops, s=8, color="0.75", label=f"evaluated ({len(tops)})")
    rows = sorted(front.rows, key=lambda row: row[front.axis])
    predicted = [row[front.axis] for row in rows]
    accuracy = [row["held_out_top1"] for row in rows]
    axis.step(predicted, accuracy, where="post", color="C0", linewidth=1)
    axis.scatter(predicted, accuracy, color="C0", zorder=3, label="front, predicted")
    timed = [row for row in rows if row["measured_ms"] and front.axis == "latency_ms"]
    measured = [(row["latency_ms"], row["measured_ms"], row["held_out_top1"]) for row in timed]
    for before, after, top1 in measured:
        axis.plot([before, after], [top1, top1], color="C1", linewidth=1)
    if measured:
        _, times, tops = zip(*measured, strict=True)
        axis.scatter(times, tops, marker="x", color="C1", zorder=4, label="front, measured")
    for number, limit in enumerate(front.limits):
        axis.axvline(limit, linestyle="--", linewidth=1, color="C3", label="" if number else "asked")
    title = f"{front.platform}; {front.beside}" if front.beside else front.platform
    axis.set(xlabel=LABELS[front.axis], ylabel="top-1 of held-out images, %", title=title)
    axis.legend()
