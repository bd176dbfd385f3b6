"""Measures how near predicted latencies are to measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import kendalltau

POOR_PERCENT = 15.0  # mean error above which a user is told to measure again; on a quiet machine it is 2 to 5


@dataclass(frozen=True)
class PredictionError:
    """Measures the error of predictions relative to measurements."""

    networks: int
    within_5_percent: float  # share whose error is at most 5 %, in percent; likewise 10 %
    within_10_percent: float
    mape_percent: float
    bias_percent: float  # median error, signed; `mape_percent` is the mean absolute error
    kendall_tau: float  # agreement of the two orders, 1 where they are the same; 0 of fewer than two networks

    @classmethod
    def of(cls, predicted_ms: Sequence[float], measured_ms: Sequence[float]) -> PredictionError:
        """Compare predictions with measurements, pair by pair."""
        errors = np.asarray(predicted_ms) / np.asarray(measured_ms) - 1
        size = np.abs(errors)
        tau = kendalltau(predicted_ms, measured_ms)[0] if len(errors) > 1 else 0.0
        return cls(
            networks=len(errors),
            within_5_percent=100 * float((size <= 0.05).mean()),
            within_10_percent=100 * float((size <= 0.10).mean()),
            mape_percent=100 * float(size.mean()),
            bias_percent=100 * float(np.median(errors)),
            kendall_tau=float(np.nan_to_num(tau)),
        )

    def figures(self, prefix: str = "") -> dict[str, float]:
        """Give the figures by name, rounded as far as they mean something."""
        return {f"{prefix}{name}": round(value, 4) for name, value in asdict(self).items()}
