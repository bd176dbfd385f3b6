"""Sections of a chain's page about what is deployed: latencies, parity, operators, files, versions, commands."""

from collections import defaultdict
from pathlib import Path

from spaceevo.report.chain import Chain, Step
from spaceevo.report.charts import axis, bars, scatter
from spaceevo.report.page import Cell, Chart, Commands, Facts, Part, Section, Table
from spaceevo.report.search_sections import cells, measured_by, rows_of
from spaceevo.report.status import in_folder
from spaceevo.report.training_sections import CommandOf, lacking

LATENCY_COLUMNS = ("asked_ms", "predicted_ms", "int8_ms", "fp32_ms", "subnet")
PARITY: tuple[str, ...] = (
    "agreement",
    "near_ties",
    "bit_equal",
    "mean_difference_std",
    "max_difference_std",
    "first_divergence",
)
PARITY += ("int8_top1", "float_layers", "folded_agreement")
HASH_LETTERS = 12


def latency_section(chain: Chain, command: CommandOf) -> Section:
    """Show asked, predicted and measured latencies, subnet by subnet, and what the exported files take."""
    step, exported = chain.find("benchmark"), chain.find("export")
    parts: list[Part] = []
    lacks = [] if step else [lacking("Latencies of subnets, measured", command("benchmark", "deploy"))]
    if step is not None:
        figures, rows = step.result.figures, rows_of(step, "subnets")
        where = f"{figures.get('platform')}, {figures.get('machine')}"
        points = [
            {
                "series": f"{row.get('platform', '')} {name}".strip(),
                "predicted": row["predicted_ms"],
                "measured": row[key],
                "subnet": row["subnet"],
            }
            for row in rows
            for name, key in (("INT8", "int8_ms"), ("fp32", "fp32_ms"))
            if row.get(key) is not None
        ]
        x, y = axis("predicted", "predicted, ms"), axis("measured", "measured, ms")
        if points:
            chart = scatter(points, x, y, ("series", "predicted", "measured", "subnet"))
            parts.append(Chart(f"Predicted and measured: {where}", chart))
        columns = (*(("platform",) if any("platform" in row for row in rows) else ()), *LATENCY_COLUMNS)
        headings = [name.replace("_ms", " ms") for name in columns]
        parts.append(Table(f"Latencies: {where}; {measured_by(step)}", headings, cells(rows, columns)))
    if exported is not None:
        parts.append(_runtimes(exported))
    return Section("Asked, predicted, measured", parts, lacks)


TOOK = "_int8_latency_ms"


def _measured(step: Step) -> list[str]:
    """What an export measured: files by their format in its own runtime, then other runtimes by name."""
    return [name.removesuffix(TOOK) for name in step.result.figures if name.endswith(TOOK)]


def _runtimes(step: Step) -> Table:
    """What the exported files take in each runtime."""
    figures = step.result.figures
    columns = ("int8_latency_ms", "fp32_latency_ms", "int8_speedup", "int8_file_kb", "fp32_file_kb")
    rows: list[list[Cell]] = [
        [name, *(figures.get(f"{name}_{column}") for column in columns)] for name in _measured(step)
    ]
    headings = ("file, or runtime", "INT8 ms", "fp32 ms", "fp32 / INT8", "INT8 kB", "fp32 kB")
    where = f"Exported files in each runtime, on {figures.get('machine', 'an unknown machine')}"
    return Table(f"{where}; {measured_by(step)}", headings, rows)


def parity_section(chain: Chain, command: CommandOf) -> Section:
    """Show how exported files agree with the trained network."""
    step = chain.find("export")
    if step is None:
        return Section("INT8 parity", (), [lacking("Exported files", command("export", "deploy"))])
    figures = step.result.figures
    judged = [name.removesuffix("_parity") for name in figures if name.endswith("_parity")]
    rows: list[list[Cell]] = [[name, *(figures.get(f"{name}_{key}") for key in PARITY)] for name in judged]
    headings = ("file", *(name.replace("_", " ") for name in PARITY))
    plain = {name: figures[name] for name in ("fp32_top1", "int8_top1", "exact_agreement") if name in figures}
    told = Facts("Trained network", {name.replace("_", " "): value for name, value in plain.items()})
    lacks = [] if rows else ["Parity: the files hold fp32 networks alone."]
    files = Table("Files against the trained network; agreement in %, differences in logits' std", headings, rows)
    return Section("INT8 parity", [files, told] if rows else [told], lacks)


def operators_section(chain: Chain, command: CommandOf) -> Section:
    """Show where an exported file's time goes."""
    step = chain.find("export")
    parts: list[Part] = []
    for name in _measured(step) if step else ():
        rows = step.table(f"{name}_profile") if step else []
        parts += _operators(name, rows) if rows else ()
    lacks = [] if parts else [lacking("Operators' times", command("export", "deploy"))]
    return Section("Operators' time", parts, lacks)


def _operators(format: str, rows: list[dict[str, str]]) -> list[Part]:
    by_place: dict[tuple[str, str], float] = defaultdict(float)
    by_kind: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_place[row["stage"], row["kind"]] += float(row["least_ms"])
        by_kind[row["kind"]].append(float(row["least_ms"]))
    points = [{"stage": stage, "series": kind, "ms": ms} for (stage, kind), ms in by_place.items()]
    table: list[list[Cell]] = [[kind, len(times), sum(times)] for kind, times in by_kind.items()]
    table.sort(key=lambda row: -float(row[2] or 0))
    chart = bars(points, axis("ms", "ms"), "stage", ("stage", "series", "ms"), stacked=True)
    return [
        Chart(f"INT8 {format}: time by stage of the network and operator", chart),
        Table(f"INT8 {format}: time by operator", ("operator", "number", "ms"), table),
    ]


def files_section(chain: Chain) -> Section:
    """List the files that the chain left, with sizes and checksums."""
    rows: list[list[Cell]] = []
    for step in chain.steps:
        for name in step.result.outputs:
            path = step.path(name)
            recorded = step.result.checksums.get(step.result.outputs[name], "")
            size = path.stat().st_size / 1e3 if path is not None and path.is_file() else None
            shown = step.result.outputs[name] if path is None else _below(path, chain.root)
            if size is not None and path is not None and not step.is_as_made(name, path):
                shown, recorded = f"{shown} is damaged, or was edited: it is not as it was made", ""
            rows.append([step.name, name, shown if path else f"{shown} is gone", size, recorded[:HASH_LETTERS]])
    columns = ("step", "name", "path", "kB", "checksum")
    parts = [Table(f"Files below {chain.root}", columns, rows)] if rows else []
    return Section("Files", parts, [] if rows else ["No job has left a file."])


def _below(path: Path, root: Path) -> str:
    absolute, folder = path.absolute(), root.absolute()
    return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else path)


def versions_section(chain: Chain) -> Section:
    """Show which versions made what, and the commands that make it again."""
    made: dict[tuple[tuple[str, str], ...], list[str]] = defaultdict(list)
    for step in chain.steps:
        made[tuple(sorted(step.result.versions.items()))].append(step.name)
    rows: list[list[Cell]] = [
        [", ".join(steps) if len(made) > 1 else "all", *(dict(versions).get(name) for name in _packages(chain))]
        for versions, steps in made.items()
    ]
    parts: list[Part] = [Table("Versions", ("steps", *_packages(chain)), rows)] if rows else []
    commands = list(
        dict.fromkeys(in_folder(step.result.command, chain.root) for step in chain.steps if step.result.command)
    )
    if commands:
        parts.append(Commands("The commands that repeat the chain, in order", commands))
    unknown = [step.name for step in chain.steps if not step.result.command]
    lacks = [f"Commands of {', '.join(unknown)}: an earlier version, which kept none, made these."] if unknown else []
    return Section("Versions and commands", parts, lacks or ([] if parts else ["No job has ended yet."]))


def _packages(chain: Chain) -> list[str]:
    return sorted({name for step in chain.steps for name in step.result.versions})
