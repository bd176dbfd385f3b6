"""Sections of a chain's page about what was searched: spaces, and the front of subnets."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from spaceevo.artifacts import read_json
from spaceevo.errors import CheckpointError
from spaceevo.report.chain import Chain, Step
from spaceevo.report.charts import Spec, axis, lines, scatter, thinned
from spaceevo.report.page import Cell, Chart, Part, Section, Table
from spaceevo.report.picture import LABELS
from spaceevo.report.training_sections import CommandOf, lacking
from spaceevo.search.limits import Limit, told_keys

TOP = 10  # spaces of the table
SPACE_COLUMNS = ("space", "score", "probability", "loss", "fastest_ms", "slowest_ms")
FRONT_COLUMNS = {
    "asked_ms": "asked",
    "latency_ms": "predicted ms",
    "measured_ms": "measured ms",
    "held_out_top1": "held-out top-1 %",
    "top1": "test top-1 %",
    "mmacs": "MMACs",
    "mparams": "MParams",
    "subnet": "subnet",
}


def spaces_section(chain: Chain, command: CommandOf) -> Section:
    """Show how the space search went and what it found."""
    step = chain.find("space_search")
    if step is None:
        return Section("Space search", (), [lacking("Space search", command("space_search", "deploy"))])
    parts: list[Part] = [*_distributions(step), *_history(step)]
    spaces = rows_of(step, "spaces")[:TOP]
    parts.append(Table(f"The best {len(spaces)} spaces", SPACE_COLUMNS, cells(spaces, SPACE_COLUMNS)))
    ranked: dict[tuple[Cell, Cell], Mapping[str, Any]] = {}
    for row in rows_of(step, "sensitivity"):
        ranked.setdefault((row["t"], row["a"]), row)
    columns = ("t", "a", "new_rank", "new_best")
    heading = ("t", "a", "rank of the chosen space", "best space then")
    parts.append(Table("Under other constants of the Q-T score", heading, cells(list(ranked.values()), columns)))
    lacks = [] if step.table("quantiles") else ["Distributions as a table: left by later versions only; force=true"]
    return Section("Space search", parts, lacks)


def _distributions(step: Step) -> list[Part]:
    rows = step.table("quantiles")
    charts: list[Part] = []
    for field, title in (("latency_ms", "latency, ms"), ("loss", "loss (NSR) of subnets in time")):
        points = [
            {"series": row["space"], "share": 100 * float(row["share"]), field: float(row[field])}
            for row in rows
            if row.get(field)
        ]
        if points:
            share = axis("share", "share of subnets, %")
            chart = lines(points, axis(field, title), share, ("series", field, "share"), points=False)
            charts.append(Chart(f"Which share of a space's subnets has at most which {title.split(',')[0]}", chart))
    return charts


def _history(step: Step) -> list[Part]:
    rows = rows_of(step, "history")
    best = accumulate((float(row["score"]) for row in rows), max)
    points = [
        {"evaluation": row["evaluation"], "series": name, "score": score, "space": row["space"]}
        for row, so_far in zip(rows, best, strict=True)
        for name, score in (("evaluated", float(row["score"])), ("best so far", so_far))
    ]
    chart = scatter(
        thinned(points), axis("evaluation", "evaluation"), axis("score", "Q-T score"), ("space", "score", "evaluation")
    )
    return [Chart("Score of every evaluated space, in order", chart)] if points else []


def front_section(chain: Chain, command: CommandOf) -> Section:
    """Show the front of each platform: asked, predicted, measured."""
    step = chain.find("subnet_search")
    if step is None:
        return Section("Front", (), [lacking("Front of subnets", command("subnet_search", "deploy"))])
    rows = rows_of(step, "pareto_subnets")
    unmeasured = all(row.get("measured_ms") is None for row in rows)
    by = "" if unmeasured else f"; {measured_by(step)}"
    parts: list[Part] = []
    for platform in dict.fromkeys(str(row["platform"]) for row in rows):
        mine = [row for row in rows if row["platform"] == platform]
        cost = str(step.result.figures.get("front_axis", "latency_ms"))
        title = f"Front on {platform}" + ("; dashed: asked latency" if cost == "latency_ms" else "")
        told = [{**row, "asked_ms": told_keys(str(row["asked_ms"]))} for row in mine]
        parts += [
            Chart(title, _front(mine, evaluated(step, platform), cost)),
            Table(f"Subnets on {platform}{by}", tuple(FRONT_COLUMNS.values()), cells(told, tuple(FRONT_COLUMNS))),
        ]
    lacks = ["Measured latencies: the platform was not at hand, or is a table."] if unmeasured else []
    return Section("Front", parts, lacks)


def measured_by(step: Step) -> str:
    """Say which job measured latencies, and when: others measured the same subnets anew, and found others."""
    made = step.result.made.replace("T", " ")[:16]
    return f"measured by {step.result.stage}, {made}; other runs differ"


def evaluated(step: Step, platform: str) -> list[Mapping[str, Any]]:
    """Read the subnets of the search's last generation, with latency and top-1; nothing where they are not there."""
    file = step.folder / f"population_{platform}.json"
    try:
        found = read_json(file) if file.is_file() else {}
    except CheckpointError:
        return []
    rows = found.get("population", []) if isinstance(found, dict) else []
    return [row for row in rows if isinstance(row, dict)]


def _front(rows: Sequence[Mapping[str, Any]], population: Sequence[Mapping[str, Any]], cost: str) -> Spec:
    """Draw top-1 against what was limited first: `cost` is its column, `latency_ms` in most searches."""
    is_latency = cost == "latency_ms"
    points = [
        {"series": name, cost: row[key], "top1": row["held_out_top1"], "subnet": row["subnet"]}
        for name, key, source in (
            ("last generation", cost, population),
            ("predicted", cost, rows),
            *((("measured", "measured_ms", rows),) if is_latency else ()),
        )
        for row in source
        if row.get(key) is not None
    ]
    limits = {Limit.of_key(text).ms for row in rows for text in str(row["asked_ms"]).split()} if is_latency else set()
    asked = sorted(ms for ms in limits if ms is not None)
    x = axis(cost, LABELS[cost])
    top1 = axis("top1", "held-out top-1, %")
    return scatter(points, x, top1, ("series", cost, "top1", "subnet"), asked)


def rows_of(step: Step, name: str) -> list[Mapping[str, Any]]:
    """Return the rows that a job left as a figure; nothing where there are none."""
    rows = step.result.figures.get(name, [])
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def cells(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[list[Cell]]:
    """Take columns out of rows."""
    return [[row.get(name) for name in columns] for row in rows]
