"""Sections of a chain's page about what was trained: steps with times, block losses, curves."""

from collections.abc import Callable, Mapping, Sequence

from spaceevo.report.chain import Chain, Step
from spaceevo.report.charts import axis, bars, lines, thinned
from spaceevo.report.page import Cell, Chart, HeatMap, Part, Section, Table

CommandOf = Callable[[str, str], str]  # The command of a job for networks of a scheme of quantisation
SCHEMES = {"fp32": "off", "int8": "deploy"}
NAMED = {"fp32": "fp32", "int8": "INT8"}


def lacking(what: str, command: str) -> str:
    """Say what a chain lacks, and what makes it."""
    return f"{what}: not there yet; it is made by: {command}"


def steps_section(chain: Chain) -> Section:
    """Show which jobs ran, when, for how long and on what."""
    rows: list[list[Cell]] = [
        [step.name, step.result.made.replace("T", " ")[:19], step.result.seconds, step.result.device, _told(step)]
        for step in chain.steps
    ]
    times = [{"step": step.name, "seconds": step.result.seconds} for step in chain.steps]
    parts: list[Part] = []
    if rows:
        parts = [
            Table("Steps in the order in which they ended", ("step", "ended", "seconds", "device", "found"), rows),
            Chart("Seconds a step", bars(times, axis("seconds", "seconds"), "step", ("step", "seconds"))),
        ]
    none = [] if rows else [f"No job has ended in {chain.root}."]
    unread = [f"cannot be read: {line}" for line in chain.broken]
    unread += [
        f"Results under quant={scheme} lie there too; they are shown by recipe.pipeline.quant={scheme}."
        for scheme in chain.left_out
    ]
    damaged = [path for step in chain.steps for path in step.damaged_tables()]
    unread += [f"{path} is not as it was made; what it holds is left out" for path in damaged]
    return Section("The chain", parts, [*none, *unread])


def _told(step: Step) -> str:
    """The first figures of those that a job shows at its end."""
    named = {name: step.result.figures.get(name) for name in step.result.summary[:3]}
    short = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in named.items()}
    return ", ".join(f"{name} {value}" for name, value in short.items())


def blocks_section(chain: Chain, command: CommandOf) -> Section:
    """Show the losses of distilled blocks, fp32 beside INT8."""
    found = {name: losses for name in SCHEMES if (losses := block_losses(chain.find("block_kd", name)))}
    lacks = [
        lacking(f"Block losses, {NAMED[name]}", command("block_kd", scheme))
        for name, scheme in SCHEMES.items()
        if name not in found
    ]
    return Section("Block losses", heat_maps(found, candidates(chain.find("block_kd"))), lacks)


def candidates(step: Step | None) -> list[str]:
    """Name the candidate block types that all stages have, in order."""
    described = step.result.settings.get("superspace.candidates", []) if step is not None else []
    return [str(one.get("type", "")) for one in described if isinstance(one, dict)]


def block_losses(step: Step | None) -> dict[str, dict[int, float]]:
    """Read the loss (NSR) of every candidate's largest sub-stage: stage → candidate → loss."""
    found: dict[str, dict[int, float]] = {}
    rows = step.result.figures.get("blocks", []) if step is not None else []
    for row in rows if isinstance(rows, list) else []:
        stage, _, candidate = str(row["block"]).rpartition("_")
        found.setdefault(stage, {})[int(candidate)] = float(row["max_nsr"])
    return {stage: found[stage] for stage in sorted(found)}


def heat_maps(found: Mapping[str, Mapping[str, Mapping[int, float]]], types: Sequence[str]) -> list[HeatMap]:
    """Make a heat map of stage × candidate for each precision; colours mean the same in all of them."""
    stages = sorted({stage for losses in found.values() for stage in losses})
    most = 1 + max((number for losses in found.values() for row in losses.values() for number in row), default=-1)
    values = {stage: [loss for losses in found.values() for loss in losses.get(stage, {}).values()] for stage in stages}
    ends = {stage: (min(row), max(row)) for stage, row in values.items()}
    return [
        HeatMap(
            f"Loss (NSR) of the largest sub-stage, {NAMED[name]}; the bluer, the less, of the stage in fp32 and INT8",
            [f"{number} {types[number] if number < len(types) else ''}".strip() for number in range(most)],
            {stage: [losses.get(stage, {}).get(number) for number in range(most)] for stage in stages},
            ends,
        )
        for name, losses in found.items()
    ]


def curves_section(chain: Chain, command: CommandOf) -> Section:
    """Show loss, rate and accuracy of what was trained, by epoch."""
    losses: list[Mapping[str, object]] = []
    tops: list[Mapping[str, object]] = []
    for name, curve in chain.trainings():
        for row in curve:
            at = float(row["epoch"])
            losses.append({"series": name, "epoch": at, "loss": float(row["loss"]), "rate": float(row["lr"])})
            for key, value in row.items():
                if key.endswith("top1") and value:
                    tops.append({"series": f"{name} {key.replace('_', ' ')}", "epoch": at, "top1": float(value)})
    parts: list[Part] = []
    epoch = axis("epoch", "epoch", axis={"tickMinStep": 1, "format": "d"})
    for title, rows, field in (("Mean loss of each epoch", losses, "loss"), ("Learning rate", losses, "rate")):
        if rows:
            y = axis(field, field, scale={"type": "symlog", "constant": 0.01})
            chart = lines(thinned(rows), epoch, y, ("series", "epoch", field))
            parts.append(Chart(title, chart))
    if tops:
        chart = lines(tops, epoch, axis("top1", "top-1, %"), ("series", "epoch", "top1"))
        parts.append(Chart("Top-1 of the test images, where it was measured", chart))
    lacks = [
        lacking(f"Supernet, {NAMED[name]}", command("supernet", scheme))
        for name, scheme in SCHEMES.items()
        if chain.find("supernet", name) is None
    ]
    return Section("Supernet and training curves", parts, lacks)
