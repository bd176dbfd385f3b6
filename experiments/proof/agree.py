"""How well what is known of spaces before any is trained orders them by the top-1 of their promised subnets.

    python agree.py alone.csv scored.csv alternatives.csv

Of a space counts the mean INT8 top-1 of its trained subnets (alone.py best).
"""

import sys

import numpy as np
import pandas as pd
from scipy.stats import kendalltau
from tau import SEED, told

PREDICTORS = {"score": 1, "loss": -1, "probability": 1, "mean_loss": -1, "mmacs": 1, "mparams": 1}
SHUFFLES = 10_000


def main() -> None:
    """Print a row for each predictor."""
    trained, scored, others = (pd.read_csv(path).set_index("space") for path in sys.argv[1:])
    spaces = scored[["score", "probability", "loss"]].join(others[["mean_loss", "mmacs", "mparams"]])
    spaces = spaces.join(trained.groupby("space")["int8_top1"].mean(), how="inner")
    top1 = spaces["int8_top1"].to_numpy()
    rng = np.random.default_rng(SEED)
    chance = [kendalltau(rng.permutation(len(spaces)), top1).statistic for _ in range(SHUFFLES)]
    print(f"{len(spaces)} spaces, top-1 {top1.min():.2f} to {top1.max():.2f} %")
    print(f"by chance |tau| is below {np.quantile(np.abs(chance), 0.95):.2f} in 95 % of cases")
    for name, sign in PREDICTORS.items():
        print(told(name, sign * spaces[name].to_numpy(), top1))
    print(spaces.sort_values("score", ascending=False).round(4).to_string())


if __name__ == "__main__":
    main()
