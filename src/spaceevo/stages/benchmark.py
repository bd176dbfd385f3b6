"""Stage benchmark: asked, predicted and measured latency of subnets, side by side, INT8 and fp32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from spaceevo.artifacts import FRONT_FILE, read_json
from spaceevo.export.bundle import FORMS
from spaceevo.latency.accuracy import PredictionError
from spaceevo.latency.blocks import random_program, subnet_blocks
from spaceevo.latency.measure import Model, machine_name, measure
from spaceevo.nn.block import Block
from spaceevo.nn.stage import Stage
from spaceevo.nn.supernet import Network
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.report.latency import draw_predictions
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.base import Context, Outcome, StageCallback, console, progress, write_csv
from spaceevo.stages.export import PRECISIONS, file_name
from spaceevo.stages.platforms.base import Platform
from spaceevo.stages.platforms.measuring import MeasuringPlatform

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
        files = {f"{form}_{of}": folder / file_name(form, of) for form in FORMS for of in PRECISIONS}
        return files if context.plain["subnet"] else {**files, "front": _front_file(context)}

    def stamp(self, context: Context) -> str:
        """Of what the platform predicts by."""
        return str(context.platform.stamp)

    def work(self, context: Context) -> Outcome:
        """Predict, measure interleaved, compare."""
        repeats, (specs, asked) = context.count("repeats"), _specs_and_asked(context)
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

    def _models(self, context: Context, specs: Sequence[SubnetSpec]) -> dict[str, Model]:
        """`int8 <subnet>` and `fp32 <subnet>` → model; exported files where there are any."""
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
                    models[f"fp32 {spec}"] = platform.compile_float(random_network(context.member, spec), shape)
        return models

    def _measured(self, context: Context, models: Mapping[str, Model], repeats: int) -> dict[str, float]:
        if isinstance(context.platform, MeasuringPlatform):
            return context.platform.measured_ms(models, repeats)
        return measure(models, repeats)  # exported files only, in this machine's ONNX Runtime


def random_network(member: SpaceMember, spec: SubnetSpec) -> Network:
    """A subnet in fp32 with fresh weights."""
    scheme = quant_scheme("deploy")
    specs = member.block_specs(spec)
    stages = {name: Stage([Block([block], scheme) for block in blocks]) for name, blocks in specs.items()}
    return Network(stages, spec.resolution, None).eval()


def _front_file(context: Context) -> Path:
    return context.layout.subnet_search(str(context.member)) / FRONT_FILE


def _form(platform: Platform) -> str:
    """Format of the files that can be measured: the platform's, or ONNX on a platform that is a table."""
    return platform.suffix.removeprefix(".") if isinstance(platform, MeasuringPlatform) else "onnx"


def _exported(context: Context) -> dict[str, Model]:
    """`int8 <subnet>` and `fp32 <subnet>` → exported file, where there is one of a subnet of this space."""
    form, found = _form(context.platform), dict[str, Model]()
    for precision in PRECISIONS:
        path = Path(context.config.paths.exported) / file_name(form, precision)
        texts = FORMS[form].metadata(path.read_bytes()) if form in FORMS and path.exists() else {}
        if texts.get("space") == str(context.member):
            found[f"{precision} {texts['subnet']}"] = path
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
