"""The page of how far jobs are: what runs, what went wrong, and what has been found so far."""

import csv
import re
import time
from collections.abc import Sequence
from pathlib import Path

from spaceevo.artifacts import read_json
from spaceevo.errors import CheckpointError
from spaceevo.report.chain import read_chain
from spaceevo.report.page import Cell, Commands, Facts, Part, Section, Table, write_status
from spaceevo.report.status import Watched, duration
from spaceevo.report.training_sections import NAMED, SCHEMES, block_losses, candidates, heat_maps

LOGGED_LOSS = re.compile(r"train/(.+)_(\d+)/max_loss")  # as Lightning's logger names the loss of a block's largest pass
COLUMNS = ("step", "state", "at", "done", "last told", "took", "ends in")


def rows(watched: Sequence[Watched]) -> list[list[Cell]]:
    """Return how far each job is, as rows of a table."""
    return [
        [
            one.name,
            one.state,
            one.task,
            "" if one.done is None else f"{100 * one.done:.0f} %",
            "" if one.age_s is None else f"{duration(one.age_s)} ago",
            duration(one.seconds),
            duration(one.left_s),
        ]
        for one in watched
    ]


def write_status_page(
    path: Path, root: Path, watched: Sequence[Watched], commands: Sequence[str], refresh_s: int | None
) -> None:
    """Write the page; a browser that shows it reads it again every `refresh_s` seconds."""
    states = [one.state for one in watched]
    facts: dict[str, Cell] = {state: states.count(state) for state in dict.fromkeys(states)}
    title = ", ".join([root.name, *(f"{number} {state}" for state, number in facts.items())])
    facts |= {"looked at": time.strftime("%d %b %H:%M:%S")}
    wrong = [f"{one.name}: {line}" for one in watched for line in one.troubles]
    sections = [
        Section("Jobs", [Facts("", facts), Table("", COLUMNS, rows(watched))] if watched else [Facts("", facts)]),
        Section("What went wrong", (), wrong or ["Nothing."]),
        Section("To go on", [Commands("", commands)] if commands else (), [] if commands else ["Nothing has to be."]),
        _blocks(root),
        _front(root),
    ]
    write_status(path, title, sections, refresh_s)


def _blocks(root: Path) -> Section:
    """Losses of the blocks distilled so far, or of those at work, fp32 beside INT8."""
    chain = read_chain(root)
    ended = {name: block_losses(chain.find("block_kd", name)) for name in SCHEMES}
    found = {name: losses for name in SCHEMES if (losses := ended[name] or _losses_at_work(root, name))}
    maps = heat_maps(found, candidates(chain.find("block_kd")))
    told = [
        f"{NAMED[name]}: still training; losses of the last step that was logged." for name in found if not ended[name]
    ]
    return Section("Block losses so far", maps, told if maps else ["No block has been distilled yet."])


def _losses_at_work(root: Path, precision: str) -> dict[str, dict[int, float]]:
    """The last losses that the logger wrote of blocks that are being distilled: stage → candidate → loss."""
    files = sorted(
        root.glob(f"block_kd_{precision}*/*/csv/version_*/metrics.csv"), key=lambda file: file.stat().st_mtime
    )
    found: dict[str, dict[int, float]] = {}
    for file in files[-1:]:
        with file.open(newline="", encoding="utf-8", errors="replace") as lines:
            for row in csv.DictReader(lines):
                for key, value in row.items():
                    block = LOGGED_LOSS.fullmatch(key or "")
                    if block and value:
                        found.setdefault(block[1], {})[int(block[2])] = float(value)
    return found


def _front(root: Path) -> Section:
    """The best subnets of the search's last generation, or of its end."""
    parts: list[Part] = []
    for file in sorted(root.glob("subnet_search*/population_*.json")):
        try:
            content = read_json(file)
            rows, generation = content["population"], int(content["generation"])
            cost = next(name for name in rows[0] if name not in ("subnet", "held_out_top1"))  # what is limited first
            members = [(float(it[cost]), float(it["held_out_top1"]), str(it["subnet"])) for it in rows]
        except (CheckpointError, OSError, LookupError, StopIteration, TypeError, ValueError):
            continue
        best: list[list[Cell]] = []
        for least, top1, subnet in sorted(members, key=lambda it: (it[0], -it[1])):
            if not best or top1 > float(best[-1][1] or 0):
                best.append([least, top1, subnet])
        platform = file.stem.removeprefix("population_")
        title = f"Front on {platform} after generation {generation}"
        parts.append(Table(title, (cost.replace("_", " "), "held-out top-1 %", "subnet"), best))
    return Section("Front so far", parts, [] if parts else ["No generation of subnets has been evaluated yet."])
