"""Draw what was found: score against top-1 of spaces, block loss against top-1 of subnets.

python picture.py best-alone.csv random-alone.csv scored.csv picture.png
"""

import sys

import matplotlib as mpl
import pandas as pd

mpl.use("agg")
from matplotlib import pyplot as plt

SEARCHED, HAND_MADE, OTHER = "#c2410c", "#0f766e", "#64748b"


def colour(space: str, best: str) -> str:
    """Tell the searched space, those of one family, and all others apart."""
    blocks = space.split("-")[1]
    return SEARCHED if space == best else HAND_MADE if len(set(blocks)) == 1 else OTHER


def main() -> None:
    """Draw two panels."""
    trained, drawn, scored = (pd.read_csv(path) for path in sys.argv[1:4])
    spaces = trained.groupby("space")["int8_top1"].mean().to_frame().join(scored.set_index("space")["score"])
    best = str(scored.sort_values("score").iloc[-1]["space"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.scatter(spaces["score"], spaces["int8_top1"], c=[colour(space, best) for space in spaces.index])
    for name, shown in (("searched", SEARCHED), ("one family", HAND_MADE), ("other", OTHER)):
        left.scatter([], [], c=shown, label=name)
    left.set(xlabel="Q-T score", ylabel="INT8 top-1, %", title="Spaces: their promised subnet, trained")
    left.legend(loc="lower right")
    right.scatter(drawn["loss"], drawn["int8_top1"], c=OTHER, label="any subnet within the limit")
    right.scatter(trained["loss"], trained["int8_top1"], c=SEARCHED, label="of least loss in its space")
    right.set(xlabel="sum of block losses (NSR)", ylabel="INT8 top-1, %", title="Subnets, each trained by itself")
    right.legend(loc="lower left")
    figure.savefig(sys.argv[4], dpi=120)


if __name__ == "__main__":
    main()
