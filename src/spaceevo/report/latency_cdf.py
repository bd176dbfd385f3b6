"""Picture of the latencies of random subnets, and where chosen ones lie among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spaceevo.report.figures import picture


def draw_latency_cdf(path: Path, latencies_ms: Sequence[float], marked_ms: Mapping[str, float], title: str) -> None:
    """Draw the share of subnets at most as slow as each latency.

    Args:
        path: file to write.
        latencies_ms: of random subnets.
        marked_ms: name → latency of subnets to mark, each by a vertical line.
        title: what was drawn, and where it would run.
    """
    ordered = np.sort(np.asarray(latencies_ms))
    share = np.arange(1, len(ordered) + 1) / len(ordered)
    with picture(path, width=6.0) as (axes,):
        axes.step(ordered, 100 * share, where="post", label=f"{len(ordered)} random subnets")
        for index, (name, latency_ms) in enumerate(marked_ms.items(), start=1):
            axes.axvline(latency_ms, color=f"C{index}", linestyle="--", label=f"{name}: {latency_ms:.3g} ms")
        axes.set(xlabel="predicted latency (ms)", ylabel="subnets at most as slow (%)", title=title, ylim=(0, 100))
        axes.legend(loc="lower right", fontsize="small")
