"""Pictures of accuracy against cost: what was evaluated, asked, predicted and measured; INT8 beside fp32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spaceevo.report.picture import LABELS, picture
from spaceevo.search.front import front

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
        for axis, one in zip(axes, fronts, strict=True):
            _draw(axis, one)


def draw_precisions(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw top-1 against the measured latency of INT8 files, and dotted against that of the same subnets' fp32 files.

    Steps join those that no other beats in what was measured; a search goes by held-out images and predicted latency.

    Args:
        path: of the picture.
        rows: subnets: `top1` in percent that the search has told, `int8_ms` and `fp32_ms` of their files.
        title: of the picture.
    """
    precisions = {"int8_ms": ("INT8", "o", "-", "C0"), "fp32_ms": ("the same in fp32", "x", ":", "C1")}
    with picture(path, width=6.0) as (axes,):
        for column, (label, marker, line, color) in precisions.items():
            points = [(row[column], row["top1"]) for row in rows]
            axes.scatter(*zip(*points, strict=True), marker=marker, color=color, zorder=3, label=label)
            axes.step(
                *zip(*(points[it] for it in front(points)), strict=True),
                where="post",
                linestyle=line,
                linewidth=1,
                color=color,
            )
        axes.set(xlabel="measured latency, ms", ylabel="top-1 of test images, as searched, %", title=title)
        axes.legend()


def _draw(axis: Axes, found: PlatformFront) -> None:
    times, tops = zip(*found.evaluated, strict=True)
    axis.scatter(times, tops, s=8, color="0.75", label=f"evaluated ({len(tops)})")
    rows = sorted(found.rows, key=lambda row: row[found.axis])
    predicted = [row[found.axis] for row in rows]
    accuracy = [row["held_out_top1"] for row in rows]
    axis.step(predicted, accuracy, where="post", color="C0", linewidth=1)
    axis.scatter(predicted, accuracy, color="C0", zorder=3, label="front, predicted")
    timed = [row for row in rows if row["measured_ms"] and found.axis == "latency_ms"]
    measured = [(row["latency_ms"], row["measured_ms"], row["held_out_top1"]) for row in timed]
    for before, after, top1 in measured:
        axis.plot([before, after], [top1, top1], color="C1", linewidth=1)
    if measured:
        _, times, tops = zip(*measured, strict=True)
        axis.scatter(times, tops, marker="x", color="C1", zorder=4, label="front, measured")
    for number, limit in enumerate(found.limits):
        axis.axvline(limit, linestyle="--", linewidth=1, color="C3", label="" if number else "asked")
    title = f"{found.platform}; {found.beside}" if found.beside else found.platform
    axis.set(xlabel=LABELS[found.axis], ylabel="top-1 of held-out images, %", title=title)
    axis.legend()
