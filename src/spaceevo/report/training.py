"""The picture of a training: loss, rate and what was measured, by epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from spaceevo.report.picture import picture

MOST_NAMED = 8  # figures beyond it are drawn without names


def draw_training(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Draw loss and rate on the left, measured figures on the right; a row is an epoch, with `epoch`, `loss`, `lr`."""
    epochs = [row["epoch"] for row in rows]
    measured = list(dict.fromkeys(key for row in rows for key in row if key not in ("epoch", "loss", "lr")))
    with picture(path, columns=2) as (losses, figures):
        losses.plot(epochs, [row["loss"] for row in rows], marker=".", color="C0")
        losses.set(xlabel="epoch", ylabel="mean loss")
        rates = losses.twinx()
        rates.plot(epochs, [row["lr"] for row in rows], color="C1", linewidth=1)
        rates.set_ylabel("learning rate", color="C1")
        for key in measured:
            points = [(row["epoch"], row[key]) for row in rows if key in row]
            figures.plot(*zip(*points, strict=True), marker="o", label=key)
        figures.set(xlabel="epoch", ylabel="NSR" if any("nsr" in key for key in measured) else "top-1, %")
        if 0 < len(measured) <= MOST_NAMED:
            figures.legend()
