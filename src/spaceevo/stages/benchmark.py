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
from spaceevo.stages.job import Input, Outcome, file_input, platform_input
from spaceevo.stages.selection import SpaceJob
from spaceevo.stages.settings import Count, SubnetSettings
from spaceevo.terminal import print_rows, progress

TABLES_RUNTIME = "onnxruntime"
"""Runtime that exported files are measured in on this machine, where the platform is a table."""
COLUMNS = {"asked_ms": "asked", "predicted_ms": "predicted", "int8_ms": "INT8", "fp32_ms": "fp32"}
COLUMNS |= {"error": "error %", "subnet": "subnet"}
ROUNDS = 3  # Times that several platforms are measured in turn
Row = dict[str, Any]
Models = dict[str, bytes]  # Files by `int8 <subnet>` and `fp32 <subnet>`
Latencies = dict[str, float]  # In ms, by the same names


@dataclass(frozen=True)
class BenchmarkRecipe:
    """Says how subnets are measured."""

    repeats: Count  # timings of each; the least counts


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(SubnetSettings):
    """Says what is measured, by default what the last subnet search chose and the front it found, and where."""

    platform: Component[Platform]  # the platform, where `platforms` lists none
    platforms: Mapping[str, Component[Platform]]  # several platforms by name
    recipe: BenchmarkRecipe  # how


@dataclass(frozen=True)
class Bench:
    """Measures subnets on one platform.

    A platform that is a table measures nothing; there the exported ONNX files are measured in this machine's ONNX
    Runtime.
    """

    platform: Platform

    @property
    def measuring(self) -> MeasuringPlatform | None:
        """The platform where it is no table."""
        return self.platform if isinstance(self.platform, MeasuringPlatform) else None

    @property
    def runtime(self) -> Runtime:
        """The runtime of the files that can be measured."""
        return self.measuring.runtime if self.measuring else runtime_named(TABLES_RUNTIME)

    @property
    def machine(self) -> str:
        """The machine on which files are measured."""
        return self.measuring.machine if self.measuring else machine_name()

    def models(self, member: SpaceMember, specs: Sequence[SubnetSpec], exported: Mapping[str, bytes]) -> Models:
        """Write `int8 <subnet>` and `fp32 <subnet>`; exported files are taken where there are any."""
        texts = {str(spec) for spec in specs}
        models = {name: file for name, file in exported.items() if name.split()[1] in texts}
        platform = self.measuring
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

    def measured_ms(self, models: Models, repeats: int) -> Latencies:
        """Measure the latency in ms of files."""
        if self.measuring:
            return self.measuring.measured_ms(models, repeats)
        timings = ThisMachine().time_models(self.runtime, models, repeats)  # exported files only
        return {name: timing.latency_ms for name, timing in timings.items()}

    def print(self, rows: Sequence[Row]) -> None:
        """The table on the screen; errors are shown where the platform itself was measured."""
        if self.measuring:
            rows = [{**row, "error": f"{100 * (row['predicted_ms'] / row['int8_ms'] - 1):+.1f}"} for row in rows]
        columns = {name: heading for name, heading in COLUMNS.items() if self.measuring or name != "error"}
        by = "measured on" if self.measuring else "a table; exported files are measured in ONNX Runtime on"
        print_rows(rows, columns, f"latency in ms: {self.platform.name}, {by} {self.machine}")


class BenchmarkJob(SpaceJob[BenchmarkSettings]):
    """Measures subnets on one or several platforms: those asked for, or the chosen one and the found front.

    Latency does not depend on weights: but for the exported subnet's files, they are random.
    """

    name = "benchmark"
    main_figure = "int8_latency_ms"

    @cached_property
    def benches(self) -> dict[str, Bench]:
        """The platforms by name."""
        listed = {name: self.workspace.make(component) for name, component in self.settings.platforms.items()}
        if not listed:
            platform = self.workspace.make(self.settings.platform)
            listed = {platform.name: platform}
        return {name: Bench(platform) for name, platform in listed.items()}

    def inputs(self) -> Mapping[str, Input]:
        """Return the exported files, what the platforms predict by, and the front unless subnets are asked for."""
        exported, found = self.workspace.exported, dict(super().inputs())
        for name, bench in self.benches.items():
            format = bench.runtime.format
            found |= {f"{format}_{of}": file_input(exported / file_name(format, of)) for of in PRECISIONS}
            found["platform" if len(self.benches) == 1 else f"platform_{name}"] = platform_input(bench.platform)
        return found if self.settings.subnet is not None else {**found, "front": file_input(self.front_file)}

    def work(self) -> Outcome:
        """Predict, measure side by side, compare."""
        specs, asked_ms = self._specs_and_asked()
        found_ms = self._measured_ms(specs)
        rows = {
            name: self._rows(bench, specs, asked_ms.get(bench.platform.name, {}), found_ms[name])
            for name, bench in self.benches.items()
        }
        output = self.workspace.output
        outputs = {"table": output / "benchmark.csv"}
        figures: dict[str, Any] = {}
        for name, bench in self.benches.items():
            bench.print(rows[name])
            if bench.measuring:
                several = f"_{name}" * (len(rows) > 1)
                predicted, measured = ([row[column] for row in rows[name]] for column in ("predicted_ms", "int8_ms"))
                figures |= PredictionError.of(predicted, measured).figures(f"predicted{several}_")
                picture = outputs[f"picture{several}"] = output / f"benchmark{several}.png"
                draw_predictions(picture, predicted, measured, f"{self.member}, {bench.platform.name}")
        first, *others = self.benches.values()
        every: list[Row] = next(iter(rows.values()))
        if others:
            every = [{"platform": name, **row} for name, found in rows.items() for row in found]
            figures["fastest"] = print_fastest(every)
        write_csv(outputs["table"], every)
        interpolated = sum(len(bench.platform.predictor.interpolated) for bench in self.benches.values())
        told = {"platform": ", ".join(self.benches), "machine": first.machine, **_first(every[0])}
        return Outcome({**told, **figures, "interpolated_blocks": interpolated, "subnets": every}, outputs)

    def _rows(
        self, bench: Bench, specs: Sequence[SubnetSpec], asked_ms: Mapping[str, float], found_ms: Latencies
    ) -> list[Row]:
        """What was asked, predicted and measured of each subnet on one platform."""
        predicted_ms = bench.platform.subnets_ms(self.member, specs)
        return [
            {
                "subnet": str(spec),
                "asked_ms": asked_ms.get(str(spec)),
                "predicted_ms": float(ms),
                "int8_ms": found_ms.get(f"int8 {spec}"),
                "fp32_ms": found_ms.get(f"fp32 {spec}"),
            }
            for spec, ms in zip(specs, predicted_ms, strict=True)
        ]

    def _specs_and_asked(self) -> tuple[list[SubnetSpec], dict[str, dict[str, float]]]:
        """The subnets to measure, the chosen one first, and by platform the latency in ms that was asked for."""
        if self.settings.subnet is not None:
            return self.subnets(), {}
        front = self.front()
        specs = [self.best_subnet(), *(SubnetSpec.parse(row.subnet) for row in front.front)]
        # A subnet may be the best of several limits; the lowest says most.
        asked = {
            platform: {subnet: ms for ms, subnet in sorted(_by_ms(chosen), key=lambda found: -found[0])}
            for platform, chosen in front.chosen_by_limit.items()
        }
        return list(dict.fromkeys(specs)), asked

    def _measured_ms(self, specs: Sequence[SubnetSpec]) -> dict[str, Latencies]:
        """Measure on every platform in turn, several times over, so that what disturbs one disturbs all."""
        repeats = self.settings.recipe.repeats
        models = {name: bench.models(self.member, specs, self._exported(bench)) for name, bench in self.benches.items()}
        rounds = min(ROUNDS, repeats) if len(models) > 1 else 1
        found: dict[str, Latencies] = {}
        for name, bench in [*self.benches.items()] * rounds:
            again = bench.measured_ms(models[name], -(-repeats // rounds))
            found[name] = {model: min(ms, found.get(name, again)[model]) for model, ms in again.items()}
        return found

    def _exported(self, bench: Bench) -> Models:
        """Read the exported files of the platform's format that are of this space."""
        found: Models = {}
        for precision in PRECISIONS:
            path = self.workspace.exported / file_name(bench.runtime.format, precision)
            require_undamaged(path, self.workspace.commands("export"))
            file = path.read_bytes() if path.exists() else b""
            texts = bench.runtime.metadata(file) if file else {}
            if texts.get("space") == str(self.member):
                found[f"{precision} {texts['subnet']}"] = file
        return found


def print_fastest(rows: Sequence[Row]) -> dict[str, str]:
    """Tell on which platform each subnet runs fastest in INT8, of those it was measured on; return that by subnet."""
    measured = [row for row in rows if row["int8_ms"] is not None]
    found: list[Row] = []
    for subnet in dict.fromkeys(row["subnet"] for row in measured):
        first, *others = sorted((row for row in measured if row["subnet"] == subnet), key=lambda row: row["int8_ms"])
        ahead = f"{100 * (others[0]['int8_ms'] / first['int8_ms'] - 1):.0f}" if others else ""
        found.append({**first, "ahead": ahead})
    columns = {"platform": "fastest", "int8_ms": "INT8 ms", "ahead": "% before the next", "subnet": "subnet"}
    print_rows(found, columns, "the fastest platform of each subnet")
    return {row["subnet"]: row["platform"] for row in found}


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


def _by_ms(chosen: Mapping[str, str]) -> list[tuple[float, str]]:
    """Limits of latency in ms and the subnets that are the best within them; other limits are left out."""
    return [(ms, subnet) for limit, subnet in chosen.items() if (ms := ms_of_key(limit)) is not None]
