"""Do block losses predict the top-1 of subnets with shared weights? Draws subnets of a space, then compares.

    python subnets.py draw LUT_FOLDER SPACE 200 > drawn.csv       # encodings and sums of their block losses
    python -m spaceevo +stage=evaluate … "subnet=[$(python subnets.py list drawn.csv)]"
    python subnets.py agree drawn.csv …/evaluate/subnets.csv      # Kendall's tau and Spearman's rho, with intervals

Drawn are rows of the tables, one for each searched stage, all of one resolution: as the Q-T score draws them.
"""

import csv
import sys
from pathlib import Path
from random import Random

import pandas as pd
from tau import told

from spaceevo.search.lut import LutKey, LutRow, lut_file_name, read_lut_file
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec, parse_substage
from spaceevo.space.operators import sample_substage
from spaceevo.space.superspace import SpaceMember

SEED = 0
PREDICTORS = {
    "block losses": ("loss", -1),
    "MACs": ("mmacs", 1),
    "parameters": ("mparams", 1),
    "latency": ("latency_ms", 1),
    "resolution": ("resolution", 1),
}


def tables(folder: Path, member: SpaceMember) -> list[list[LutRow]]:
    """Read the table of each searched stage that this space selects."""
    keys = [LutKey(stage, *chosen) for stage, chosen in enumerate(zip(member.blocks, member.windows, strict=True))]
    return [read_lut_file(folder / lut_file_name(member.superspace, key)) for key in keys]


def draw(folder: Path, member: SpaceMember, count: int) -> list[dict[str, object]]:
    """Draw subnets, each with the sum of its rows' losses and of their latencies in ms."""
    rng, superspace = Random(SEED), member.superspace
    of_stage = tables(folder, member)
    searched = {stage.name for stage in superspace.searched}
    rows: dict[SubnetSpec, dict[str, object]] = {}
    while len(rows) < count:
        resolution = rng.choice(superspace.block_resolutions)
        chosen = {}
        for stage, of_this in zip(superspace.searched, of_stage, strict=True):
            hw = superspace.input_hw(stage.name, resolution)
            chosen[stage.name] = rng.choice([row for row in of_this if row.hw == hw])
        stages = tuple(
            parse_substage(chosen[stage.name].substage) if stage.name in searched else sample_substage(stage, rng)
            for stage in member.body
        )
        spec = SubnetSpec(stages, resolution)
        member.validate(spec)
        loss = sum(row.loss for row in chosen.values())
        rows[spec] = {"subnet": str(spec), "loss": loss, "latency_ms": sum(row.latency_ms for row in chosen.values())}
    return list(rows.values())


def agree(drawn: Path, evaluated: Path) -> None:
    """Print how each predictor orders the evaluated subnets."""
    tested = pd.read_csv(evaluated)[["subnet", "top1", "mmacs", "mparams"]]
    rows = pd.read_csv(drawn).merge(tested, on="subnet", validate="one_to_one")
    rows["resolution"] = [SubnetSpec.parse(text).resolution for text in rows["subnet"]]
    top1 = rows["top1"].to_numpy()
    print(f"{len(rows)} subnets, top-1 {top1.min():.2f} to {top1.max():.2f} %, standard deviation {top1.std():.2f}")
    for name, (column, sign) in PREDICTORS.items():
        print(told(name, sign * rows[column].to_numpy(), top1))


def main() -> None:
    """Run the command that the module's text shows."""
    command, *words = sys.argv[1:]
    if command == "draw":
        rows = draw(Path(words[0]), parse_space(words[1]), int(words[2]))
        writer = csv.DictWriter(sys.stdout, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    elif command == "list":
        print(",".join(pd.read_csv(words[0])["subnet"]))
    else:
        agree(Path(words[0]), Path(words[1]))


if __name__ == "__main__":
    main()
