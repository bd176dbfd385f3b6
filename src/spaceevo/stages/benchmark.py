"""Job benchmark: asked, predicted and measured latency of subnets, side by side, INT8 and fp32."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spaceevo.artifacts import Component, require_undamaged, write_csv
from spaceevo.export.bundle import PRECISIONS, file_name
from spaceevo.latency.accuracy import PredictionError
from spaceevo.nn.block import Block
from spaceevo.nn.stage import Stage
from spaceevo.nn.supernet import Network
from spaceevo.platforms.base import Platform
from spaceevo.platforms.measuring import MeasuringPlatform, ThisMachine
from spaceevo.quant.quantizer import DEPLOY
from spaceevo.report.latency import draw_predictions
from spaceevo.runtimes.base import Runtime
from spaceevo.runtimes.machine import machine_name
from spaceevo.runtimes.random_program import random_program
from spaceevo.runtimes.registry import runtime_named
from spaceevo.search.limits import ms_of_key
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import subnet_blocks
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.job import Input, Made, Outcome, file_input, platform_input
from spaceevo.stages.selection import SpaceJob
from spaceevo.stages.settings import Count, SubnetSettings
from spaceevo.terminal import print_rows, progress

TABLES_RUNTIME = "onnxruntime"
"""Runtime that exported files are measured in on this machine, where the platform is a table."""
COLUMNS = {"asked_ms": "asked", "predicted_ms": "predicted", "int8_ms": "INT8", "fp32_ms": "fp32"}
COLUMNS |= {"error": "error %", "subnet": "subnet"}
Row = dict[str, Any]


@dataclass(frozen=True)
class BenchmarkRecipe:
    """Says how subnets are measured."""

    repeats: Count  # timings of each; the least counts


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(SubnetSettings):
    """Says what is measured, by default what the last subnet search chose and the front it found, and where."""

    platform: Component[Platform]  # the platform
    recipe: BenchmarkRecipe  # how


class BenchmarkJob(SpaceJob[BenchmarkSettings]):
    """Measures subnets on the platform: those asked for, or the chosen one and the found front.

    Latency does not depend on weights: but for the exported subnet's files, they are random. A platform that is a table
    measures nothing; there the exported ONNX files are measured in this machine's ONNX Runtime.
    """

    name = "benchmark"
    main_figure = "int8_latency_ms"

    platform = Made[Platform]()

    @cached_property
    def measuring(self) -> MeasuringPlatform | None:
        """The platform where it is no table."""
        return self.platform if isinstance(self.platform, MeasuringPlatform) else None

    @cached_property
    def runtime(self) -> Runtime:
        """The runtime of the files that can be measured."""
        return self.measuring.runtime if self.measuring else runtime_named(TABLES_RUNTIME)

    @cached_property
    def machine(self) -> str:
        """The machine on which files are measured."""
        return self.measuring.machine if self.measuring else machine_name()

    def inputs(self) -> Mapping[str, Input]:
        """Return the exported files, what the platform predicts by, and the front unless subnets are asked for."""
        exported, format = self.workspace.exported, self.runtime.format
        files = {f"{format}_{of}": file_input(exported / file_name(format, of)) for of in PRECISIONS}
        found = {**super().inputs(), **files, "platform": platform_input(self.platform)}
        return found if self.settings.subnet is not None else {**found, "front": file_input(self.front_file)}

    def work(self) -> Outcome:
        """Predict, measure side by side, compare."""
        platform, member, output = self.platform, self.member, self.workspace.output
        specs, asked_ms = self._specs_and_asked()
        predicted_ms = platform.subnets_ms(member, specs)
        found_ms = self._measured_ms(self._models(specs))
        rows: list[Row] = [
            {
                "subnet": str(spec),
                "asked_ms": asked_ms.get(str(spec)),
                "predicted_ms": float(ms),
                "int8_ms": found_ms.get(f"int8 {spec}"),
                "fp32_ms": found_ms.get(f"fp32 {spec}"),
            }
            for spec, ms in zip(specs, predicted_ms, strict=True)
        ]
        self._print(rows)
        outputs = {"table": output / "benchmark.csv"}
        write_csv(outputs["table"], rows)
        figures = {"platform": platform.name, "machine": self.machine, **_first(rows[0])}
        if self.measuring:
            predicted, measured = ([row[name] for row in rows] for name in ("predicted_ms", "int8_ms"))
            figures |= PredictionError.of(predicted, measured).figures("predicted_")
            outputs["picture"] = output / "benchmark.png"
            draw_predictions(outputs["picture"], predicted, measured, f"{member}, {platform.name}")
        figures["interpolated_blocks"] = len(platform.predictor.interpolated)
        return Outcome({**figures, "subnets": rows}, outputs)

    def _specs_and_asked(self) -> tuple[list[SubnetSpec], dict[str, float]]:
        """The subnets to measure, the chosen one first, and the latency in ms that was asked for, where one was."""
        if self.settings.subnet is not None:
            return self.subnets(), {}
        front = self.front()
        specs = [self.best_subnet(), *(SubnetSpec.parse(row.subnet) for row in front.front)]
        chosen = front.chosen_by_limit.get(self.platform.name, {})
        # A subnet may be the best of several limits; the lowest says most.
        by_ms = [(ms, subnet) for limit, subnet in chosen.items() if (ms := ms_of_key(limit)) is not None]
        asked = {subnet: ms for ms, subnet in sorted(by_ms, key=lambda item: -item[0])}
        return list(dict.fromkeys(specs)), asked

    def _models(self, specs: Sequence[SubnetSpec]) -> dict[str, bytes]:
        """Write `int8 <subnet>` and `fp32 <subnet>`; exported files are taken where there are any."""
        platform, member = self.measuring, self.member
        texts = {str(spec) for spec in specs}
        models = {name: file for name, file in self._exported().items() if name.split()[1] in texts}
        if platform is None:
            return models
        with progress() as bar:
            for spec in bar.track(specs, description="writing subnets"):
                if f"int8 {spec}" not in models:
                    models[f"int8 {spec}"] = platform.compile(random_program(subnet_blocks(member, spec)))
                if f"fp32 {spec}" not in models:
                    shape = (member.superspace.input_channels, spec.resolution, spec.resolution)
                    models[f"fp32 {spec}"] = platform.runtime.write_float(random_network(member, spec), shape)
        return models

    def _exported(self) -> dict[str, bytes]:
        """`int8 <subnet>` and `fp32 <subnet>` → exported file, where there is one of a subnet of this space."""
        found: dict[str, bytes] = {}
        for precision in PRECISIONS:
            path = self.workspace.exported / file_name(self.runtime.format, precision)
            require_undamaged(path, self.workspace.commands("export"))
            file = path.read_bytes() if path.exists() else b""
            texts = self.runtime.metadata(file) if file else {}
            if texts.get("space") == str(self.member):
                found[f"{precision} {texts['subnet']}"] = file
        return found

    def _measured_ms(self, models: Mapping[str, bytes]) -> dict[str, float]:
        repeats = self.settings.recipe.repeats
        if self.measuring:
            return self.measuring.measured_ms(models, repeats)
        timings = ThisMachine().time_models(self.runtime, models, repeats)  # exported files only
        return {name: timing.latency_ms for name, timing in timings.items()}

    def _print(self, rows: Sequence[Row]) -> None:
        """The table on the screen; errors are shown where the platform itself was measured."""
        if self.measuring:
            rows = [{**row, "error": f"{100 * (row['predicted_ms'] / row['int8_ms'] - 1):+.1f}"} for row in rows]
        columns = {name: heading for name, heading in COLUMNS.items() if self.measuring or name != "error"}
        by = "measured on" if self.measuring else "a table; exported files are measured in ONNX Runtime on"
        print_rows(rows, columns, f"latency in ms: {self.platform.name}, {by} {self.machine}")


def random_network(member: SpaceMember, spec: SubnetSpec) -> Network:
    """Make a subnet in fp32 with fresh weights, on which latency does not depend."""
    specs = member.block_specs(spec)
    stages = {name: Stage([Block([block], DEPLOY) for block in blocks]) for name, blocks in specs.items()}
    return Network(stages, spec.resolution, None).eval()


def _first(row: Row) -> dict[str, Any]:
    """The figures of the first subnet by the names that the pipeline shows."""
    figures = {"subnet": row["subnet"], "predicted_latency_ms": row["predicted_ms"]}
    figures |= {f"{precision}_latency_ms": row[f"{precision}_ms"] for precision in PRECISIONS}
    if row["int8_ms"] and row["fp32_ms"]:
        figures["int8_speedup"] = row["fp32_ms"] / row["int8_ms"]
    return figures
