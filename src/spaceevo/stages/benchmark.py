"""Stage benchmark: asked, predicted and measured latency of subnets, side by side, INT8 and fp32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from spaceevo.artifacts import FRONT_FILE, fingerprint, read_json
from spaceevo.export.bundle import PRECISIONS, file_name
from spaceevo.latency.accuracy import PredictionError
from spaceevo.nn.block import Block
from spaceevo.nn.stage import Stage
from spaceevo.nn.supernet import Network
from spaceevo.platforms.base import Platform
from spaceevo.platforms.measuring import MeasuringPlatform, ThisMachine
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.report.latency import draw_predictions
from spaceevo.runtimes.base import Runtime
from spaceevo.runtimes.machine import machine_name
from spaceevo.runtimes.random_program import random_program
from spaceevo.runtimes.registry import formats, runtime_named
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import subnet_blocks
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.base import Context, Outcome, StageCallback, write_csv
from spaceevo.terminal import console, progress

TABLES_RUNTIME = "onnxruntime"
"""Runtime that exported files are measured in on this machine, where the platform is a table."""
Row = dict[str, Any]


class BenchmarkStage(StageCallback):
    """Measures subnets on the platform: those asked for, or the chosen one and the found front.

    Latency does not depend on weights: but for the exported subnet's files, they are random. A platform that is a table
    measures nothing; there the exported ONNX files are measured in this machine's ONNX Runtime.
    """

    name = "benchmark"
    main_figure = "int8_latency_ms"

    def inputs(self, context: Context) -> dict[str, Path]:
        """The exported files, and the found front unless subnets are asked for."""
        folder = Path(context.config.paths.exported)
        files = {f"{format}_{of}": folder / file_name(format, of) for format in formats() for of in PRECISIONS}
        return files if context.plain["subnet"] else {**files, "front": _front_file(context)}

    def stamp(self, context: Context) -> str:
        """Of what the platform predicts by; blocks that it measured since do not count."""
        is_measured = isinstance(context.platform, MeasuringPlatform)
        return fingerprint(context.platform.table_state(0 if is_measured else None))

    def work(self, context: Context) -> Outcome:
        """Predict, measure interleaved, compare."""
        repeats = context.count("repeats")
        specs, asked = _specs_and_asked(context)
        predicted = context.platform.subnets_ms(context.member, specs)
        found = self._measured(context, self._models(context, specs), repeats)
        rows: list[Row] = [
            {
                "subnet": str(spec),
                "asked_ms": asked.get(str(spec)),
                "predicted_ms": float(predicted_ms),
                "int8_ms": found.get(f"int8 {spec}"),
                "fp32_ms": found.get(f"fp32 {spec}"),
            }
            for spec, predicted_ms in zip(specs, predicted, strict=True)
        ]
        _print_rows(rows, context.platform)
        write_csv(context.output / "benchmark.csv", rows)
        outputs = {"table": context.output / "benchmark.csv"}
        is_measured = isinstance(context.platform, MeasuringPlatform)
        figures = {"platform": context.platform.name, "machine": _machine(context.platform), **_first(rows[0])}
        if is_measured:
            columns = [[row[name] for row in rows] for name in ("predicted_ms", "int8_ms")]
            figures |= PredictionError.of(columns[0], columns[1]).figures("predicted_")
            outputs["picture"] = context.output / "benchmark.png"
            draw_predictions(outputs["picture"], columns[0], columns[1], f"{context.member}, {context.platform.name}")
        figures["interpolated_blocks"] = len(context.platform.predictor.interpolated)
        return Outcome({**figures, "subnets": rows}, outputs)

    def _models(self, context: Context, specs: Sequence[SubnetSpec]) -> dict[str, bytes]:
        """Write `int8 <subnet>` and `fp32 <subnet>`; exported files are taken where there are any."""
        platform = context.platform
        models = {name: file for name, file in _exported(context).items() if name.split()[1] in map(str, specs)}
        if not isinstance(platform, MeasuringPlatform):
            return models
        with progress() as bar:
            for spec in bar.track(specs, description="writing subnets"):
                if f"int8 {spec}" not in models:
                    models[f"int8 {spec}"] = platform.compile(random_program(subnet_blocks(context.member, spec)))
                if f"fp32 {spec}" not in models:
                    shape = (context.superspace.input_channels, spec.resolution, spec.resolution)
                    models[f"fp32 {spec}"] = platform.runtime.write_float(random_network(context.member, spec), shape)
        return models

    def _measured(self, context: Context, models: Mapping[str, bytes], repeats: int) -> dict[str, float]:
        if isinstance(context.platform, MeasuringPlatform):
            return context.platform.measured_ms(models, repeats)
        timings = ThisMachine().time_models(_runtime(context.platform), models, repeats)  # exported files only
        return {name: timing.latency_ms for name, timing in timings.items()}


def random_network(member: SpaceMember, spec: SubnetSpec) -> Network:
    """A subnet in fp32 with fresh weights."""
    scheme = quant_scheme("deploy")
    specs = member.block_specs(spec)
    stages = {name: Stage([Block([block], scheme) for block in blocks]) for name, blocks in specs.items()}
    return Network(stages, spec.resolution, None).eval()


def _front_file(context: Context) -> Path:
    return context.layout.subnet_search(str(context.member)) / FRONT_FILE


def _runtime(platform: Platform) -> Runtime:
    """The runtime of the files that can be measured."""
    return platform.runtime if isinstance(platform, MeasuringPlatform) else runtime_named(TABLES_RUNTIME)


def _exported(context: Context) -> dict[str, bytes]:
    """`int8 <subnet>` and `fp32 <subnet>` → exported file, where there is one of a subnet of this space."""
    runtime, found = _runtime(context.platform), dict[str, bytes]()
    for precision in PRECISIONS:
        path = Path(context.config.paths.exported) / file_name(runtime.format, precision)
        file = path.read_bytes() if path.exists() else b""
        texts = runtime.metadata(file) if file else {}
        if texts.get("space") == str(context.member):
            found[f"{precision} {texts['subnet']}"] = file
    return found


def _specs_and_asked(context: Context) -> tuple[list[SubnetSpec], dict[str, float]]:
    """The subnets to measure, the chosen one first, and the latency that was asked for, where one was."""
    if context.plain["subnet"] is not None:
        return context.subnets(), {}
    specs, found = [context.best_subnet()], read_json(_front_file(context))
    specs += [SubnetSpec.parse(row["subnet"]) for row in found["front"]]
    chosen = found["chosen_by_limit"].get(context.platform.name, {})
    # A subnet may be the best of several limits; the lowest says most.
    asked = {subnet: float(limit) for limit, subnet in sorted(chosen.items(), key=lambda item: -float(item[0]))}
    return list(dict.fromkeys(specs)), asked


def _machine(platform: Platform) -> str:
    return platform.machine if isinstance(platform, MeasuringPlatform) else machine_name()


def _first(row: Row) -> dict[str, Any]:
    """The figures of the first subnet by the names that the pipeline shows."""
    figures = {"subnet": row["subnet"], "predicted_latency_ms": row["predicted_ms"]}
    figures |= {f"{precision}_latency_ms": row[f"{precision}_ms"] for precision in ("int8", "fp32")}
    if row["int8_ms"] and row["fp32_ms"]:
        figures["int8_speedup"] = row["fp32_ms"] / row["int8_ms"]
    return figures


def _print_rows(rows: Sequence[Row], platform: Platform) -> None:
    is_measured, machine = isinstance(platform, MeasuringPlatform), _machine(platform)
    by = "measured on" if is_measured else "a table; exported files are measured in ONNX Runtime on"
    table = Table(title=f"latency in ms: {platform.name}, {by} {machine}", title_justify="left")
    for heading in ("asked", "predicted", "INT8", "fp32", *(["error %"] if is_measured else [])):
        table.add_column(heading, justify="right")
    table.add_column("subnet", overflow="fold")
    for row in rows:
        values = [row[name] for name in ("asked_ms", "predicted_ms", "int8_ms", "fp32_ms")]
        error = [f"{100 * (row['predicted_ms'] / row['int8_ms'] - 1):+.1f}"] if is_measured else []
        table.add_row(*("" if value is None else f"{value:.4g}" for value in values), *error, row["subnet"])
    console.print(table)
