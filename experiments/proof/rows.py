"""Gather what the runs of `experiment=fashion_mnist_space` found into rows.csv and fronts.csv, beside this file.

    python rows.py runs/proof scored.csv

`scored.csv` is the table of `+stage=space_search space=[…]`. A space counts once its subnets are tested; a run that
still goes on is left out.
"""

import csv
import sys
from dataclasses import asdict
from pathlib import Path

from spaceevo.artifacts import FRONT_FILE, Front

HERE = Path(__file__).parent


def write(name: str, rows: list[dict[str, object]]) -> None:
    """Write rows of the same keys."""
    with (HERE / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Read every finished front."""
    runs, scored = Path(sys.argv[1]), Path(sys.argv[2])
    with scored.open() as file:
        qualities = {row["space"]: row for row in csv.DictReader(file)}
    best, fronts = [], []
    for path in sorted(runs.rglob(FRONT_FILE)):
        front = Front.read(path)
        seed = next(part.removeprefix("seed") for part in path.parts if part.startswith("seed"))
        for subnet in front.front:
            fronts.append({"space": front.space, "seed": seed, **asdict(subnet)})
        for limit, encoding in front.chosen_by_limit[front.front[0].platform].items():
            found = next(subnet for subnet in front.front if subnet.subnet == encoding)
            quality = qualities.get(front.space, {})
            best.append(
                {
                    "space": front.space,
                    "seed": seed,
                    "limit_ms": limit,
                    "score": quality.get("score"),
                    "loss": quality.get("loss"),
                    "probability": quality.get("probability"),
                    "subnet": encoding,
                    "latency_ms": found.latency_ms,
                    "mmacs": found.mmacs,
                    "mparams": found.mparams,
                    "held_out_top1": found.held_out_top1,
                    "top1": found.top1,
                }
            )
    write("rows.csv", best)
    write("fronts.csv", fronts)
    print(f"{len(best)} rows of {len({row['space'] for row in best})} spaces, {len(fronts)} subnets")


if __name__ == "__main__":
    main()
