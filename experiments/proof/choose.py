"""Choose the spaces of the proof: the best one found, its neighbours, one a family, and random ones.

    python choose.py pool                     # their encodings, to be scored by +stage=space_search space=[…]
    python choose.py pick scored.csv          # of the scored ones, those to train

`scored.csv` is the table of that job. Random spaces are picked evenly over the whole range of their scores.
"""

import csv
import json
import sys
from pathlib import Path
from random import Random

from spaceevo.space.description import parse_space, superspace
from spaceevo.space.superspace import SpaceMember

BEST = Path("runs/small/checkpoints/block_kd/search/small/best.json")
RANDOM, NEIGHBOURS, PICKED_RANDOM, PICKED_NEIGHBOURS, SEED = 150, 12, 7, 3, 0
small = superspace("small")


def neighbours(best: SpaceMember) -> list[SpaceMember]:
    """All spaces that differ from it in one stage, by family or by widths."""
    found = []
    for position, stage in enumerate(small.searched):
        for block in range(len(small.candidates)):
            blocks = [*best.blocks[:position], block, *best.blocks[position + 1 :]]
            found.append(small.member(blocks, best.windows))
        for window in range(stage.windows):
            windows = [*best.windows[:position], window, *best.windows[position + 1 :]]
            found.append(small.member(best.blocks, windows))
    return [member for member in dict.fromkeys(found) if member != best]


def uniform() -> list[SpaceMember]:
    """One space a family, of the middle widths: what one would draw by hand."""
    middle = [(stage.windows - 1) // 2 for stage in small.searched]
    return [small.member([block] * len(middle), middle) for block in range(len(small.candidates))]


def random_spaces(rng: Random) -> list[SpaceMember]:
    """Spaces of any family and width in every stage."""
    return [
        small.member(
            [rng.randrange(len(small.candidates)) for _ in small.searched],
            [rng.randrange(stage.windows) for stage in small.searched],
        )
        for _ in range(RANDOM)
    ]


def main() -> None:
    """Print encodings, separated by commas."""
    rng = Random(SEED)
    best = parse_space(json.loads(BEST.read_text())["space"])
    near = neighbours(best)
    rng.shuffle(near)
    if sys.argv[1] == "pool":
        members = [best, *near[:NEIGHBOURS], *uniform(), *random_spaces(rng)]
        print(",".join(map(str, dict.fromkeys(members))))
        return
    with Path(sys.argv[2]).open() as file:
        score = {row["space"]: float(row["score"]) for row in csv.DictReader(file)}
    hand_made = list(map(str, uniform()))
    others = sorted(score.keys() - {str(best), *hand_made, *map(str, near)}, key=lambda space: score[space])
    spread = [others[round(index * (len(others) - 1) / (PICKED_RANDOM - 1))] for index in range(PICKED_RANDOM)]
    print(",".join(dict.fromkeys([str(best), *map(str, near[:PICKED_NEIGHBOURS]), *hand_made, *spread])))


if __name__ == "__main__":
    main()
