"""What a subnet search leaves: fronts tested, extracted, measured, and written as table, CSV, JSON and picture."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from spaceevo.artifacts import read_json, write_json
from spaceevo.nn.evaluate import Evaluation, calibrate_subnet, top1
from spaceevo.nn.subnets import save_subnet
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.convert import to_program
from spaceevo.report.front import Drawn, draw_fronts
from spaceevo.search.front import front
from spaceevo.space.cost import subnet_cost
from spaceevo.space.encoding import SubnetSpec
from spaceevo.stages.base import Context, Outcome, console, write_csv

FRONT_FILE = "front.json"
Row = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What the search for one platform found.

    Attributes:
        platform: its name.
        latency_ms: predicted latency of a subnet.
        evaluations: all evaluated subnets.
        front: those of the front that are tested, the fastest first.
        chosen: the best subnet within each limit, in ms.
    """

    platform: str
    latency_ms: Callable[[SubnetSpec], float]
    evaluations: Mapping[SubnetSpec, Evaluation]
    front: Sequence[SubnetSpec]
    chosen: Mapping[float, SubnetSpec]

    @property
    def shown(self) -> list[SubnetSpec]:
        """The front and the chosen ones, the fastest first."""
        return sorted(dict.fromkeys([*self.front, *self.chosen.values()]), key=self.latency_ms)


def write_fronts(
    context: Context, supernet: Supernet, fronts: Sequence[Found], platforms: Mapping[str, Any]
) -> Outcome:
    """Test, extract and measure the subnets of all fronts; write and print everything."""
    folder = context.shared(context.layout.subnet_search(str(context.member)))
    specs = list(dict.fromkeys(spec for found in fronts for spec in found.shown))
    known, networks = _test_and_extract(context, supernet, specs, folder / "subnets")
    rows = [row for found in fronts for row in _rows(context, found, known)]
    _measure(rows, networks, platforms)
    limits = {found.platform: list(found.chosen) for found in fronts}
    chosen = {found.platform: {f"{ms:g}": str(spec) for ms, spec in found.chosen.items()} for found in fronts}
    first = next(iter(fronts[0].chosen.values()))
    record: Row = {"space": str(context.member), "chosen": str(first), "front": rows}
    record |= {"latency_constraints_ms": list(fronts[0].chosen), "limits_ms": limits, "chosen_by_limit": chosen}
    write_json(folder / FRONT_FILE, record)
    evaluated = {f.platform: [(f.latency_ms(s), e.top1) for s, e in f.evaluations.items()] for f in fronts}
    outputs = _write_tables(rows, limits, context.output, evaluated)
    outputs |= {"chosen": folder / FRONT_FILE, "subnets": folder / "subnets"}
    figures = _figures(context, fronts, rows, first)
    return Outcome(figures, outputs, context.command("export", f"space={context.member}", "quant=deploy"))


def _test_and_extract(
    context: Context, supernet: Supernet, specs: Sequence[SubnetSpec], folder: Path
) -> tuple[dict[SubnetSpec, Row], dict[SubnetSpec, Network]]:
    """Top-1 on the test images of every subnet, and its checkpoints: INT8, and fp32 where its supernet is there."""
    known: dict[SubnetSpec, Row] = {}
    networks: dict[SubnetSpec, Network] = {}
    calibration, test = context.data.calibration_images(), context.data.test()

    def extract(net: Supernet, spec: SubnetSpec, precision: str) -> Network:
        calibrate_subnet(net, spec, calibration)
        network, path = net.extract(spec).cpu(), folder / f"{specs.index(spec):02d}_{precision}.pth"
        quant = context.config.quant.name if precision == "int8" else "off"
        save_subnet(path, network, context.member, spec, context.data.classes, quant)
        known.setdefault(spec, {"file": path.stem.split("_")[0]})[f"{precision}_file"] = str(path)
        return network

    shutil.rmtree(folder, ignore_errors=True)  # those of an earlier search
    for spec in specs:
        networks[spec] = extract(supernet, spec, "int8" if context.int8 else "fp32")
        known[spec]["top1"] = top1(supernet, test)
    if context.int8 and context.supernet_file(int8=False).exists():
        fp32 = context.supernet(int8=False)
        for spec in specs:
            extract(fp32, spec, "fp32")
    return known, networks


def _rows(context: Context, found: Found, known: Mapping[SubnetSpec, Row]) -> list[Row]:
    asked = {spec: " ".join(f"{ms:g}" for ms, best in found.chosen.items() if best == spec) for spec in found.shown}
    rows = []
    for spec in found.shown:
        cost = subnet_cost(context.member, spec)
        row: Row = {"platform": found.platform, "subnet": str(spec)}
        row |= {"asked_ms": asked[spec], "latency_ms": found.latency_ms(spec), "measured_ms": None}
        row |= {"held_out_top1": found.evaluations[spec].top1, **known[spec]}
        rows.append({**row, "mmacs": cost.mmacs, "mparams": cost.mparams})
    return rows


def _measure(rows: Sequence[Row], networks: Mapping[SubnetSpec, Network], platforms: Mapping[str, Any]) -> None:
    """Add the measured latency of integer networks, on platforms that are at hand."""
    for name, platform in platforms.items():
        mine = {row["subnet"]: row for row in rows if row["platform"] == name}
        programs = {
            str(spec): to_program(network, (3, network.resolution, network.resolution))
            for spec, network in networks.items()
            if str(spec) in mine and network.image_quantizer is not None and network.image_quantizer.is_on
        }
        if hasattr(platform, "measured_ms") and programs:
            for text, latency_ms in platform.measured_ms(programs).items():
                mine[text]["measured_ms"] = latency_ms


def _write_tables(
    rows: Sequence[Row],
    limits_ms: Mapping[str, Sequence[float]],
    output: Path,
    evaluated: Mapping[str, Sequence[tuple[float, float]]],
) -> dict[str, Path]:
    """CSV and picture of the fronts, and the table on the screen."""
    write_csv(output / "front.csv", list(rows))
    drawn = [
        Drawn(name, [r for r in rows if r["platform"] == name], limits_ms[name], evaluated[name]) for name in limits_ms
    ]
    draw_fronts(output / "front.png", drawn)
    table = Table(title="fronts", title_justify="left")
    for heading in ("platform", "asked ms", "predicted ms", "measured ms", "held-out %", "test %", "MMACs", "file"):
        table.add_column(heading)
    for row in rows:
        times = [f"{row[key]:.4g}" if row[key] else "" for key in ("latency_ms", "measured_ms")]
        tops = [f"{row[key]:.2f}" for key in ("held_out_top1", "top1")]
        table.add_row(str(row["platform"]), row["asked_ms"], *times, *tops, f"{row['mmacs']:.4g}", row["file"])
    console.print(table)
    return {"front": output / "front.csv", "picture": output / "front.png"}


def _figures(context: Context, fronts: Sequence[Found], rows: Sequence[Row], chosen: SubnetSpec) -> Row:
    row = next(row for row in rows if row["subnet"] == str(chosen))
    evaluations = {spec: evaluation for found in fronts for spec, evaluation in found.evaluations.items()}
    errors = [abs(row["latency_ms"] / row["measured_ms"] - 1) for row in rows if row["measured_ms"]]
    figures: Row = {
        "space": str(context.member),
        "chosen_subnet": str(chosen),
        "chosen_top1": row["top1"],
        "chosen_held_out_top1": row["held_out_top1"],
        "chosen_predicted_latency_ms": row["latency_ms"],
        "chosen_measured_latency_ms": row["measured_ms"],
        "latency_constraint_ms": next(iter(fronts[0].chosen)),
        "evaluations": len(evaluations),
        "stopped_early": sum(evaluation.stopped for evaluation in evaluations.values()),
        "evaluated_images": sum(evaluation.images for evaluation in evaluations.values()),
        "pareto_subnets": list(rows),
    }
    if errors:
        figures["front_within_10_percent"] = 100.0 * sum(error <= 0.1 for error in errors) / len(errors)
    return figures


def merge_jobs(folder: Path) -> None:
    """Join the fronts of a sweep's jobs into `front.csv` and `front.png` in the sweep's folder.

    Jobs may differ in anything: seeds or limits of one search spread over machines, platforms, supernets.
    """
    jobs = [read_json(path) for path in sorted(folder.glob(f"*/{FRONT_FILE}"))]
    rows = [{"space": job["space"], **row} for job in jobs for row in job["front"]]
    merged: list[Row] = []
    limits: dict[str, list[float]] = {}
    for name in dict.fromkeys(str(row["platform"]) for row in rows):
        mine = list({(row["space"], row["subnet"]): row for row in rows if row["platform"] == name}.values())
        kept = front([(row["latency_ms"], row["held_out_top1"]) for row in mine])
        merged += [mine[index] for index in kept]
        limits[name] = sorted({ms for job in jobs for ms in job["limits_ms"].get(name, [])})
    if merged:
        evaluated = {
            name: [(r["latency_ms"], r["held_out_top1"]) for r in rows if r["platform"] == name] for name in limits
        }
        files = _write_tables(merged, limits, folder, evaluated)
        console.print(f"front of {len(jobs)} jobs: {files['front']}, {files['picture']}")
