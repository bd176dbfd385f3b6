"""How well a predictor orders what was trained: Kendall's tau with its interval, and Spearman's rho."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

BOOTSTRAP, SEED = 2_000, 0


def untied(values: NDArray[np.float64], top1: NDArray[np.float64]) -> float:
    """Kendall's tau if ties were decided by chance: what it says of few values is comparable with that of many."""
    signs = np.sign(values[:, None] - values) * np.sign(top1[:, None] - top1)
    return float(signs.sum()) / (len(top1) * (len(top1) - 1))


def told(name: str, values: NDArray[np.float64], top1: NDArray[np.float64]) -> str:
    """Write a row; the interval holds 95 % of the bootstrap samples."""
    samples = np.random.default_rng(SEED).integers(len(top1), size=(BOOTSTRAP, len(top1)))
    low, high = np.nanquantile([kendalltau(values[s], top1[s]).statistic for s in samples], [0.025, 0.975])
    tau, rho = kendalltau(values, top1).statistic, spearmanr(values, top1).statistic
    return f"{name:12} tau {tau:+.2f}  [{low:+.2f}, {high:+.2f}]  rho {rho:+.2f}  untied {untied(values, top1):+.2f}"
