"""Holds transfers against a profile of the same runtime, on what the profile measured; measures nothing itself.

    python experiments/runtimes/transfer.py SOURCE_TABLE PROFILE_FOLDER [STRENGTH]

The profile's networks and unseen networks take the place of those that `+stage=transfer` would measure: its first ten
networks tell the factors and its unseen ones the error; then ten of all do, drawn 40 times, and the rest the error.
"""

import math
import sys
from dataclasses import fields
from pathlib import Path
from random import Random

import numpy as np

from spaceevo.artifacts import StageResult, parse_record, read_sealed_json
from spaceevo.latency.accuracy import PredictionError
from spaceevo.latency.table import LatencyTable
from spaceevo.latency.transfer import STRENGTH, Transfer, parts_ms
from spaceevo.space.description import superspace
from spaceevo.space.placement import subnet_blocks
from spaceevo.stages.profile import ProfileRecipe, Sample
from spaceevo.stages.profile_timings import Timed

NETWORKS, DRAWS = 10, 40
Row = list[float]


def main(table: Path, folder: Path, strength: float) -> None:
    """Print a row each for the profile itself, for transfers by one factor and by factors of families."""
    known, result = LatencyTable.load(table), StageResult.load(folder)
    assert known.model is not None and result is not None
    asked = {field.name: result.settings[f"recipe.{field.name}"] for field in fields(ProfileRecipe)}
    recipe = parse_record(ProfileRecipe, asked, folder)
    name, seed = str(result.figures["superspace"]), int(str(result.settings["seed"]))
    sample = Sample.of(superspace(name), seed, recipe)
    content = read_sealed_json(folder / "timings.json")
    assert isinstance(content, dict)
    networks, latency_ms = [], []
    for what, sampled in (("networks", sample.networks), ("unseen networks", sample.unseen)):
        timed = parse_record(Timed, content["collections"][what], folder).latency_ms
        networks += [subnet_blocks(*network) for network in sampled.values()]
        latency_ms += [timed[name] for name in sampled]
    measured_ms, parts = np.array(latency_ms), parts_ms(known.model, known.correction, networks)

    def row(told: np.ndarray, checked: np.ndarray, strength: float) -> Row:
        found = Transfer.fit(known, [networks[n] for n in told], measured_ms[told].tolist(), strength)
        weights = found.table.correction.ms_per_mparam / (known.correction.ms_per_mparam or 1.0)
        predicted = parts[checked] @ np.array([*found.factors.values(), weights])
        error = PredictionError.of(predicted.tolist(), measured_ms[checked].tolist())
        return [error.within_10_percent, error.within_5_percent, error.mape_percent, error.kendall_tau]

    everything, rng = np.arange(len(networks)), Random(0)
    first, unseen = everything[:NETWORKS], everything[len(sample.networks) :]
    draws = [np.array(rng.sample(range(len(networks)), NETWORKS)) for _ in range(DRAWS)]
    figures = ("within_10_percent", "within_5_percent", "mape_percent", "kendall_tau")
    print("| | within ±10 % | within ±5 % | mean error, % | τ |\n|---|---|---|---|---|")
    show(f"its own profile, {len(sample.networks)} networks", [float(result.figures[name]) for name in figures])
    for told, of in (("one factor", math.inf), ("transfer", strength)):
        show(f"{told}, the first {NETWORKS}", row(first, unseen, of))
        rows = [row(draw, np.setdiff1d(everything, draw), of) for draw in draws]
        show(f"{told}, {DRAWS} draws, mean", np.mean(rows, axis=0).tolist())


def show(name: str, row: Row) -> None:
    """Print a row."""
    print(f"| {name} | {row[0]:.1f} | {row[1]:.1f} | {row[2]:.2f} | {row[3]:.3f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else STRENGTH)
