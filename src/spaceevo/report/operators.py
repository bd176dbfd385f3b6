"""Where the time of an exported file goes, operator by operator."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from spaceevo.report.figures import picture

Row = tuple[str, str, float]
"""Stage of the network, type of the operator, milliseconds."""


def draw_operators(path: Path, title: str, rows: Iterable[Row]) -> None:
    """Stacked bars of time by stage; a colour for every operator type.

    Args:
        path: picture to write.
        title: what was timed; its total is added.
        rows: operators in order of execution.
    """
    times: dict[str, dict[str, float]] = {}
    stages: list[str] = []
    for stage, kind, ms in rows:
        if stage not in stages:
            stages.append(stage)
        of_kind = times.setdefault(kind, {})
        of_kind[stage] = of_kind.get(stage, 0.0) + ms
    with picture(path, width=8.0) as (ax,):
        bottom = [0.0] * len(stages)
        for kind, of_kind in sorted(times.items(), key=lambda item: -sum(item[1].values())):
            heights = [of_kind.get(stage, 0.0) for stage in stages]
            ax.bar(stages, heights, bottom=bottom, label=f"{kind} {sum(heights):.3f} ms")
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        ax.set_title(f"{title}: {sum(bottom):.3f} ms")
        ax.set_ylabel("ms")
        ax.tick_params(axis="x", rotation=60)
        ax.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
