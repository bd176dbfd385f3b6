"""Predicted against measured latency, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spaceevo.report.figures import picture


def draw_predictions(
    path: Path, predicted_ms: Sequence[float], measured_ms: Sequence[float], title: str, tolerance: float = 0.1
) -> None:
    """Draw predictions against measurements, and their errors as a histogram.

    Args:
        path: file to write.
        predicted_ms: predicted latencies.
        measured_ms: measured latencies, pair by pair.
        title: of the picture.
        tolerance: relative error that is marked.
    """
    measured, errors = np.asarray(measured_ms), np.asarray(predicted_ms) / np.asarray(measured_ms) - 1
    with picture(path, columns=2) as (scatter, histogram):
        ends = np.array([0.95 * measured.min(), 1.05 * measured.max()])
        scatter.fill_between(ends, ends * (1 - tolerance), ends * (1 + tolerance), alpha=0.15, color="tab:green")
        scatter.plot(ends, ends, color="tab:green", linewidth=1)
        scatter.plot(measured, predicted_ms, "o", markersize=4)
        scatter.set(xlabel="measured, ms", ylabel="predicted, ms", title=title)
        width = max(2 * tolerance, float(np.abs(errors).max()))
        histogram.hist(100 * errors, bins=np.linspace(-100 * width, 100 * width, 25).tolist())
        histogram.axvspan(-100 * tolerance, 100 * tolerance, alpha=0.15, color="tab:green")
        within = 100 * float((np.abs(errors) <= tolerance).mean())
        histogram.set(xlabel="error, %", ylabel="networks", title=f"{within:.0f} % within ±{100 * tolerance:.0f} %")
