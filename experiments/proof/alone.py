"""Draw subnets to be trained by themselves, without a supernet: what their block losses promise, and what they keep.

    python alone.py best LUT_FOLDER MS FIXED_MS,… SPACE,…        # of each space, the two of least loss within the limit
    python alone.py random LUT_FOLDER MS FIXED_MS,… SPACE,… 24   # of these spaces in turn, any within the limit
    python alone.py agree drawn.csv runs/alone > alone.csv       # each with its top-1; taus go to standard error

Subnets are rows of the tables, one for each searched stage, of one resolution, as the Q-T score draws them; the other
stages are at their smallest, as FIXED_MS, their latency by resolution, has them.
"""

import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random

import numpy as np
from tau import told

from spaceevo.search.lut import LutKey, LutRow, lut_file_name, read_lut_file
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec, parse_substage
from spaceevo.space.superspace import SpaceMember

DRAWS, BEST, SEED = 20_000, 2, 0
PREDICTORS = {"loss": -1, "mmacs": 1, "mparams": 1, "latency_ms": 1}
Row = dict[str, object]


class Tables:
    """Holds the tables of a space, and draws from them."""

    def __init__(self, folder: Path, space: str, limit_ms: float, fixed_ms: list[float]) -> None:
        self.member: SpaceMember = parse_space(space)
        self.limit_ms = limit_ms
        superspace = self.member.superspace
        self.fixed_ms = dict(zip(superspace.block_resolutions, fixed_ms, strict=True))
        keys = [
            LutKey(n, *chosen) for n, chosen in enumerate(zip(self.member.blocks, self.member.windows, strict=True))
        ]
        self.rows = [read_lut_file(folder / lut_file_name(superspace, key)) for key in keys]

    def draw(self, rng: Random) -> tuple[int, list[LutRow]]:
        """Draw a resolution and a row of each searched stage."""
        superspace = self.member.superspace
        resolution = rng.choice(superspace.block_resolutions)
        hws = [superspace.input_hw(stage.name, resolution) for stage in superspace.searched]
        return resolution, [
            rng.choice([row for row in rows if row.hw == hw]) for rows, hw in zip(self.rows, hws, strict=True)
        ]

    def within(self, draws: int, rng: Random) -> list[Row]:
        """Draw subnets; keep those within the limit."""
        found: dict[str, Row] = {}
        for _ in range(draws):
            resolution, rows = self.draw(rng)
            latency_ms = self.fixed_ms[resolution] + sum(row.latency_ms for row in rows)
            if latency_ms <= self.limit_ms:
                figures = {"loss": sum(row.loss for row in rows), "latency_ms": latency_ms}
                figures |= {"mmacs": sum(row.mflops for row in rows), "mparams": sum(row.mparams for row in rows)}
                spec = self.spec(resolution, rows)
                found[spec] = {"space": str(self.member), "subnet": spec, **figures}
        return list(found.values())

    def spec(self, resolution: int, rows: list[LutRow]) -> str:
        """Write the subnet of these rows; all other stages at their smallest."""
        smallest = dict(zip((stage.name for stage in self.member.body), self.member.smallest.stages, strict=True))
        names = [stage.name for stage in self.member.superspace.searched]
        chosen = {name: parse_substage(row.substage) for name, row in zip(names, rows, strict=True)}
        spec = SubnetSpec(tuple((smallest | chosen).values()), resolution)
        self.member.validate(spec)
        return str(spec)


def write(rows: Iterable[Row]) -> None:
    """Print rows of the same keys."""
    rows = list(rows)
    writer = csv.DictWriter(sys.stdout, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)


def agree(drawn: Path, runs: Path) -> None:
    """Gather the top-1 of each subnet that is trained; tell how each figure orders them."""
    with drawn.open() as file:
        rows = {number: row for number, row in enumerate(csv.DictReader(file))}
    found: list[Row] = []
    for number, row in rows.items():
        kept = {name: runs / str(number) / f"finetune_{name}" / "result.json" for name in ("fp32", "int8")}
        if all(path.exists() for path in kept.values()):
            figures = {name: json.loads(path.read_text())["top1"] for name, path in kept.items()}
            found.append({"number": number, **row, **{f"{name}_top1": value for name, value in figures.items()}})
    write(found)
    top1 = np.array([float(str(row["int8_top1"])) for row in found])
    print(f"{len(found)} subnets, INT8 top-1 {top1.min():.2f} to {top1.max():.2f} %", file=sys.stderr)
    for name, sign in PREDICTORS.items():
        values = np.array([sign * float(str(row[name])) for row in found])
        print(told(name, values, top1), file=sys.stderr)


def main() -> None:
    """Run the command that the module's text shows."""
    command, *words = sys.argv[1:]
    if command == "agree":
        return agree(Path(words[0]), Path(words[1]))
    folder, limit_ms, fixed, spaces, *count = words
    fixed_ms = [float(ms) for ms in fixed.split(",")]
    tables = [Tables(Path(folder), space, float(limit_ms), fixed_ms) for space in spaces.split(",")]
    if command == "best":
        drawn = [sorted(table.within(DRAWS, Random(SEED)), key=lambda row: float(str(row["loss"]))) for table in tables]
        return write(row for rows in drawn for row in rows[:BEST])
    rng = Random(SEED)
    return write(rng.choice(tables[n % len(tables)].within(200, rng)) for n in range(int(count[0])))


if __name__ == "__main__":
    main()
