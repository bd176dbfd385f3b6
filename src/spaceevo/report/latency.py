"""Pictures of latencies: predicted against measured, of random subnets, and of a file's operators."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from spaceevo.report.picture import picture

Row = tuple[str, str, float]  # Stage of the network, type of the operator, milliseconds
TOLERANCE = 0.1  # Relative errors up to this are marked


def draw_predictions(path: Path, predicted_ms: Sequence[float], measured_ms: Sequence[float], title: str) -> None:
    """Draw predictions against measurements, pair by pair, and their relative errors as a histogram."""
    measured = np.asarray(measured_ms)
    errors = np.asarray(predicted_ms) / measured - 1
    with picture(path, columns=2) as (scatter, histogram):
        ends = np.array([0.95 * measured.min(), 1.05 * measured.max()])
        scatter.fill_between(ends, ends * (1 - TOLERANCE), ends * (1 + TOLERANCE), alpha=0.15, color="tab:green")
        scatter.plot(ends, ends, color="tab:green", linewidth=1)
        scatter.plot(measured, predicted_ms, "o", markersize=4)
        scatter.set(xlabel="measured, ms", ylabel="predicted, ms", title=title)
        width = max(2 * TOLERANCE, float(np.abs(errors).max()))
        histogram.hist(100 * errors, bins=np.linspace(-100 * width, 100 * width, 25).tolist())
        histogram.axvspan(-100 * TOLERANCE, 100 * TOLERANCE, alpha=0.15, color="tab:green")
        within = 100 * float((np.abs(errors) <= TOLERANCE).mean())
        histogram.set(xlabel="error, %", ylabel="networks", title=f"{within:.0f} % within ±{100 * TOLERANCE:.0f} %")


def draw_latency_cdf(path: Path, latencies_ms: Sequence[float], marked_ms: Mapping[str, float], title: str) -> None:
    """Draw the share of random subnets at most as slow as each latency; named ones are marked by vertical lines."""
    share = np.arange(1, len(latencies_ms) + 1) / len(latencies_ms)
    with picture(path, width=6.0) as (axes,):
        axes.step(np.sort(latencies_ms), 100 * share, where="post", label=f"{len(latencies_ms)} random subnets")
        for index, (name, latency_ms) in enumerate(marked_ms.items(), start=1):
            axes.axvline(latency_ms, color=f"C{index}", linestyle="--", label=f"{name}: {latency_ms:.3g} ms")
        axes.set(xlabel="predicted latency (ms)", ylabel="subnets at most as slow (%)", title=title, ylim=(0, 100))
        axes.legend(loc="lower right", fontsize="small")


def draw_operators(path: Path, title: str, rows: Iterable[Row]) -> None:
    """Draw where an exported file's time goes: bars by stage, in which every operator type has a colour.

    Rows are operators in order of execution; their total is added to the title.
    """
    times: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    stages: dict[str, None] = {}
    for stage, operator, ms in rows:
        stages[stage] = None
        times[operator][stage] += ms
    with picture(path, width=8.0) as (axes,):
        bottom = np.zeros(len(stages))
        for operator, by_stage in sorted(times.items(), key=lambda item: -sum(item[1].values())):
            heights = np.array([by_stage[stage] for stage in stages])
            axes.bar(list(stages), heights, bottom=bottom, label=f"{operator} {heights.sum():.3f} ms")
            bottom += heights
        axes.set(title=f"{title}: {bottom.sum():.3f} ms", ylabel="ms")
        axes.tick_params(axis="x", rotation=60)
        axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
