"""Stage benchmark: asked, predicted and measured latency of subnets, side by side, INT8 and fp32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table

from spaceevo.artifacts import read_json
from spaceevo.errors import MissingArtifactError
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
from spaceevo.stages.export import FP32_FILE, INT8_FILE
from spaceevo.stages.platforms.measuring import MeasuringPlatform

Row = dict[str, Any]


class BenchmarkStage(StageCallback):
    """Measures subnets on the platform: those asked for, or the exported one and the found front.

    Latency does not depend on weights: but for the exported files, they are random.
    """

    name = "benchmark"
    main_figure = "int8_latency_ms"

    def inputs(self, context: Context) -> dict[str, Path]:
        """The exported files and the found front, unless subnets are asked for by a list."""
        if _is_list(context):
            return {}
        folder = Path(context.config.paths.exported)
        return {"int8": folder / INT8_FILE, "fp32": folder / FP32_FILE, "front": _front_file(context)}

    def work(self, context: Context) -> Outcome:
        """Predict, measure interleaved, compare."""
        specs, asked = _specs_and_asked(context)
        exported = {} if _is_list(context) else self._exported(context)
        predicted = context.platform.subnets_ms(context.member, specs)
        with TemporaryDirectory() as folder:
            models = self._models(context, specs, exported, Path(folder))
            found = self._measured(context, models)
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
        _print_rows(rows, context.platform.name)
        write_csv(context.output / "benchmark.csv", rows)
        outputs = {"table": context.output / "benchmark.csv"}
        compared = [row for row in rows if row["int8_ms"]]
        figures = {"platform": context.platform.name, "machine": _machine(context), **_first(rows[0])}
        if compared:
            columns = [[row[name] for row in compared] for name in ("predicted_ms", "int8_ms")]
            figures |= PredictionError.of(columns[0], columns[1]).figures("predicted_")
            outputs["picture"] = context.output / "benchmark.png"
            draw_predictions(outputs["picture"], columns[0], columns[1], f"{context.member}, {context.platform.name}")
        figures["interpolated_blocks"] = len(context.platform.predictor.interpolated)
        return Outcome({**figures, "subnets": rows}, outputs)

    def _exported(self, context: Context) -> dict[str, Path]:
        files = self.inputs(context)
        for name in ("int8", "fp32"):
            if not files[name].exists():
                command = context.command("export", "quant=deploy")
                raise MissingArtifactError(f"the exported {name} file", files[name], command)
        return {name: files[name] for name in ("int8", "fp32")}

    def _models(
        self, context: Context, specs: Sequence[SubnetSpec], exported: Mapping[str, Path], folder: Path
    ) -> dict[str, Model]:
        """`int8 <subnet>` and `fp32 <subnet>` → model; the first subnet's are the exported files, if there are any."""
        platform, models = context.platform, dict[str, Model]()
        takes_onnx = not isinstance(platform, MeasuringPlatform) or platform.suffix == ".onnx"
        if takes_onnx:
            models |= {f"{precision} {specs[0]}": path for precision, path in exported.items()}
        if not isinstance(platform, MeasuringPlatform):
            return models
        with progress() as bar:
            for number, spec in enumerate(bar.track(specs, description="writing subnets")):
                if f"int8 {spec}" in models:
                    continue
                models[f"int8 {spec}"] = platform.compile(random_program(subnet_blocks(context.member, spec)))
                network = random_network(context.member, spec)
                shape = (context.superspace.input_channels, spec.resolution, spec.resolution)
                fp32 = platform.compile_float(network, shape, folder / f"{number}{platform.suffix}")
                if fp32 is not None:
                    models[f"fp32 {spec}"] = fp32
        return models

    def _measured(self, context: Context, models: Mapping[str, Model]) -> dict[str, float]:
        repeats = int(context.recipe["repeats"])
        if isinstance(context.platform, MeasuringPlatform):
            return context.platform.measured_ms(models, repeats)
        return measure(models, repeats)  # exported files only, in this machine's ONNX Runtime


def random_network(member: SpaceMember, spec: SubnetSpec) -> Network:
    """A subnet in fp32 with fresh weights."""
    scheme = quant_scheme("deploy")
    specs = member.block_specs(spec)
    stages = {name: Stage([Block([block], scheme) for block in blocks]) for name, blocks in specs.items()}
    return Network(stages, spec.resolution, None).eval()


def _is_list(context: Context) -> bool:
    return isinstance(context.plain["subnet"], list)


def _front_file(context: Context) -> Path:
    return context.layout.subnet_search(str(context.member)) / "front.json"


def _specs_and_asked(context: Context) -> tuple[list[SubnetSpec], dict[str, float]]:
    """The subnets to measure, the exported one first, and the latency that was asked for, where one was."""
    if _is_list(context):
        return context.subnets(), {}
    specs, asked = [context.best_subnet()], dict[str, float]()
    if context.plain["subnet"] is None:
        found = read_json(_front_file(context))
        specs += [SubnetSpec.parse(row["subnet"]) for row in found.get("front", [])]
        limits = found.get("latency_constraints_ms", [])
        asked = {str(specs[0]): limits[0]} if limits else {}
    return list(dict.fromkeys(specs)), asked


def _machine(context: Context) -> str:
    platform = context.platform
    return platform.machine if isinstance(platform, MeasuringPlatform) else machine_name()


def _first(row: Row) -> dict[str, Any]:
    """The figures of the first subnet by the names that the pipeline shows."""
    figures = {"subnet": row["subnet"], "predicted_latency_ms": row["predicted_ms"]}
    figures |= {f"{precision}_latency_ms": row[f"{precision}_ms"] for precision in ("int8", "fp32")}
    if row["int8_ms"] and row["fp32_ms"]:
        figures["int8_speedup"] = row["fp32_ms"] / row["int8_ms"]
    return figures


def _print_rows(rows: Sequence[Row], platform: str) -> None:
    table = Table(title=f"latency on {platform}, ms", title_justify="left")
    for heading in ("asked", "predicted", "measured INT8", "measured fp32", "error %"):
        table.add_column(heading, justify="right")
    table.add_column("subnet", overflow="fold")
    for row in rows:
        values = [row[name] for name in ("asked_ms", "predicted_ms", "int8_ms", "fp32_ms")]
        error = f"{100 * (row['predicted_ms'] / row['int8_ms'] - 1):+.1f}" if row["int8_ms"] else ""
        table.add_row(*("" if value is None else f"{value:.4g}" for value in values), error, row["subnet"])
    console.print(table)
