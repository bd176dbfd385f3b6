"""Pictures of a space search: how the best space's subnets compare, how the search went, and how sweeps compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spaceevo.report.picture import LABELS, picture

if TYPE_CHECKING:  # jobs that draw nothing start without matplotlib
    from matplotlib.axes import Axes

FloatArray = npt.NDArray[np.float32]
SHARES = np.linspace(0.0, 1.0, 401)
TABLE_SHARES = np.linspace(0.0, 1.0, 51)


@dataclass(frozen=True)
class SampledSpace:
    """Holds a space as its sampled subnets: losses (NSR), latencies in ms or another cost, which are within limits."""

    name: str
    loss: FloatArray
    cost: FloatArray
    within: npt.NDArray[np.bool_]  # the loosest of the limits


def draw_distributions(
    path: Path, best: SampledSpace, uniform: Sequence[SampledSpace], bounds: Sequence[float], axis: str
) -> None:
    """Draw which share of a space's subnets has at most which cost and, within the loosest constraint, which loss.

    The cost is what the column `axis` holds, and `bounds` are its limits. The `best` space found stands out among
    `uniform` ones, of one block type and window in all stages.
    """
    loosest, label = max(bounds), LABELS[axis]
    with picture(path, columns=2) as (cost_axes, loss_axes):
        for number, space in enumerate([*uniform, best]):
            style: dict[str, object] = {"color": "C3", "linewidth": 2.0, "label": best.name}
            if space is not best:
                style = {"color": "0.6", "linewidth": 0.6, "alpha": 0.7, "label": "" if number else "uniform spaces"}
            _cumulative(cost_axes, space.cost, style)
            _cumulative(loss_axes, space.loss[space.within], style)
        for bound in bounds:
            cost_axes.axvline(bound, color="black", linestyle=":", linewidth=1.0)
        # Uniform spaces reach several times the latency that matters.
        cost_axes.set(xlim=(0.0, 4.0 * loosest), xlabel=label, ylabel="share of subnets")
        loss_axes.set(xlabel=f"loss (NSR) of subnets within {loosest:g}, {label}")
        cost_axes.legend(fontsize="small", loc="lower right")


def quantiles(spaces: Sequence[SampledSpace], axis: str) -> list[dict[str, float | str]]:
    """Return, for shares of each space's subnets, at most which cost and, within the loosest limit, loss they have.

    A row is a space and a share; its cost is named as the column `axis`. A space without a subnet within has no losses.
    """
    rows: list[dict[str, float | str]] = []
    for space in spaces:
        within = space.loss[space.within]
        costs = np.quantile(space.cost, TABLE_SHARES)
        losses = np.quantile(within, TABLE_SHARES) if len(within) else ()
        for number, share in enumerate(TABLE_SHARES):
            row: dict[str, float | str] = {"space": space.name, "share": float(share)}
            row[axis] = float(f"{costs[number]:.5g}")
            rows.append(row | ({"loss": float(f"{losses[number]:.5g}")} if len(within) else {}))
    return rows


def draw_history(path: Path, scores: Sequence[float]) -> None:
    """Draw the score of every evaluated space, in order, and the best so far."""
    with picture(path, width=6.0) as (axes,):
        numbers = np.arange(1, len(scores) + 1)
        axes.scatter(numbers, scores, s=4, color="C0", alpha=0.4, label="evaluated")
        axes.step(numbers, np.maximum.accumulate(scores), where="post", color="C3", label="best so far")
        # A space without a subnet in time scores next to nothing, and would flatten the others.
        axes.set_ylim(bottom=0.98 * min(score for score in scores if score > 0.1 * max(scores)))
        axes.set(xlabel="evaluation", ylabel="Q-T score")
        axes.legend(fontsize="small", loc="lower right")


def draw_sweep(path: Path, setting: str, values: Sequence[object], figures: Mapping[str, Sequence[float]]) -> None:
    """Draw figures of a sweep's jobs, by their names, against the setting that was swept; an axis a figure.

    A line joins the jobs where the setting's values are numbers.
    """
    is_numeric = all(isinstance(value, int | float) for value in values)
    places = np.array(values, dtype=float) if is_numeric else np.arange(len(values), dtype=float)
    order = np.argsort(places, kind="stable")
    with picture(path, columns=len(figures), width=4.0) as all_axes:
        for axes, (name, heights) in zip(all_axes, figures.items(), strict=True):
            axes.plot(places[order], np.array(heights)[order], "o-" if is_numeric else "o")
            if not is_numeric:
                axes.set_xticks(places, [str(value) for value in values], rotation=30, ha="right", fontsize="small")
            axes.set(xlabel=setting, title=name)


def _cumulative(axes: Axes, values: FloatArray, style: Mapping[str, object]) -> None:
    if len(values):
        axes.plot(np.quantile(values, SHARES), SHARES, **style)  # type: ignore[arg-type]
