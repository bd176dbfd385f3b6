"""Other things than the Q-T score by which spaces could be ordered before any is trained.

    python alternatives.py LUT_FOLDER MS FIXED_MS,… scored.csv best.csv > alternatives.csv

Of the score's own draws, those within the limit count: the greatest multiply-accumulates and parameters (mean of 50, as
the loss is), and the mean loss of all of them. FIXED_MS: latency of the stages outside the tables, by resolution
(`+stage=predict_latency`), as the search has it.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from spaceevo.search.limits import Limit
from spaceevo.search.quality import TOP, QualityScorer
from spaceevo.space.description import parse_space

NO_LIMIT = 1e6
SAMPLES = 20_000  # as recipe.space_search.samples of the search had it


def main() -> None:
    """Print a row for each space of best.csv."""
    folder, limit_ms, fixed, scored, rows = sys.argv[1:]
    with Path(scored).open() as file:
        known = {row["space"]: row for row in csv.DictReader(file)}
    with Path(rows).open() as file:
        spaces = list(dict.fromkeys(row["space"] for row in csv.DictReader(file)))
    superspace = parse_space(spaces[0]).superspace
    fixed_ms = dict(zip(superspace.block_resolutions, map(float, fixed.split(",")), strict=True))
    limit = Limit.of({"ms": float(limit_ms), "mmacs": NO_LIMIT, "mparams": NO_LIMIT})
    scorer = QualityScorer(folder, superspace, limit, fixed_ms, samples=SAMPLES)
    writer = csv.DictWriter(sys.stdout, ["space", "score", "probability", "loss", "mean_loss", "mmacs", "mparams"])
    writer.writeheader()
    for text in spaces:
        space = parse_space(text)
        found = scorer.score(space)
        gap = abs(found.score - float(known[text]["score"]))
        assert gap < 1e-3, f"{text}: scores {found.score} here and {known[text]['score']} there; check FIXED_MS"
        loss, latency_ms = scorer.sampled(space)
        within = np.asarray(latency_ms) <= float(limit_ms)
        sizes = {kind: np.asarray(scorer.sampled_demand(kind, space))[within] for kind in ("mmacs", "mparams")}
        row = {"space": text, "score": found.score, "probability": found.probability, "loss": found.loss}
        row |= {kind: float(np.sort(values)[-TOP:].mean()) for kind, values in sizes.items()}
        writer.writerow({**row, "mean_loss": float(np.asarray(loss)[within].mean())})


if __name__ == "__main__":
    main()
