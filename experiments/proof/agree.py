"""How well scores of spaces predict the top-1 of their best subnet: Kendall's tau of the Q-T score and of others.

    python agree.py rows.csv

Seeds of a space are averaged. Intervals: 95 %, of 10,000 bootstrap samples of the spaces.
"""

import sys

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

PREDICTORS = {"Q-T score": ("score", 1), "loss": ("loss", -1), "p": ("probability", 1), "MACs": ("mmacs", 1)}
BOOTSTRAP, SEED = 10_000, 0


def main() -> None:
    """Print a row for each predictor."""
    rows = pd.read_csv(sys.argv[1])
    spaces = rows.groupby("space").mean(numeric_only=True)
    rng = np.random.default_rng(SEED)
    samples = rng.integers(len(spaces), size=(BOOTSTRAP, len(spaces)))
    chance = [kendalltau(rng.permutation(len(spaces)), spaces["top1"]).statistic for _ in range(BOOTSTRAP)]
    print(f"{len(spaces)} spaces; by chance |tau| is below {np.quantile(np.abs(chance), 0.95):.2f} in 95 % of cases")
    top1 = spaces["top1"].to_numpy()
    for name, (column, sign) in PREDICTORS.items():
        values = sign * spaces[column].to_numpy()
        taus = [kendalltau(values[sample], top1[sample]).statistic for sample in samples]
        low, high = np.nanquantile(taus, [0.025, 0.975])
        print(f"{name:10} tau {kendalltau(values, top1).statistic:+.2f}  [{low:+.2f}, {high:+.2f}]")


if __name__ == "__main__":
    main()
