"""Measures files of subnets on platforms: one of them, or several in turn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spaceevo.artifacts import Component
from spaceevo.nn.block import Block
from spaceevo.nn.stage import Stage
from spaceevo.nn.supernet import Network
from spaceevo.platforms.base import Platform
from spaceevo.platforms.measuring import MeasuringPlatform, ThisMachine
from spaceevo.quant.quantizer import DEPLOY
from spaceevo.runtimes.base import Runtime
from spaceevo.runtimes.machine import machine_name
from spaceevo.runtimes.registry import runtime_named
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import subnet_blocks
from spaceevo.space.superspace import SpaceMember
from spaceevo.terminal import doing, print_rows, progress

TABLES_RUNTIME = "onnxruntime"
"""Runtime that exported files are measured in on this machine, where the platform is a table."""
COLUMNS = {"asked_ms": "asked", "predicted_ms": "predicted", "int8_ms": "INT8", "fp32_ms": "fp32"}
COLUMNS |= {"error": "error %", "subnet": "subnet"}
FILES, MEASURED = "subnets written", "files measured"  # Kinds of work
ROUNDS = 3  # Times that several platforms are measured in turn
Row = dict[str, Any]
Models = dict[str, bytes]  # Files by `int8 <subnet>` and `fp32 <subnet>`
Latencies = dict[str, float]  # In ms, by the same names


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
                with doing(FILES):
                    if f"int8 {spec}" not in models:
                        models[f"int8 {spec}"] = platform.compile_random(subnet_blocks(member, spec))
                    if f"fp32 {spec}" not in models:
                        shape = (member.superspace.input_channels, spec.resolution, spec.resolution)
                        models[f"fp32 {spec}"] = platform.runtime.write_float(random_network(member, spec), shape)
        return models

    def measured_ms(self, models: Models, repeats: int) -> Latencies:
        """Measure the latency in ms of files."""
        with doing(MEASURED, len(models)):
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


def make_benches(
    make: Callable[[Component[Platform]], Platform],
    platform: Component[Platform],
    platforms: Mapping[str, Component[Platform]],
) -> dict[str, Bench]:
    """Make the listed platforms, or the one where none is listed, by name."""
    listed = {name: make(component) for name, component in platforms.items()}
    if not listed:
        made = make(platform)
        listed = {made.name: made}
    return {name: Bench(platform) for name, platform in listed.items()}


def rounds_of(benches: Mapping[str, Bench], repeats: int) -> int:
    """Tell how many times each platform is measured."""
    return min(ROUNDS, repeats) if len(benches) > 1 else 1


def measure_in_turn(benches: Mapping[str, Bench], models: Mapping[str, Models], repeats: int) -> dict[str, Latencies]:
    """Measure files on every platform in turn, several times over, so that what disturbs one disturbs all."""
    rounds = rounds_of(benches, repeats)
    found: dict[str, Latencies] = {}
    for name, bench in [*benches.items()] * rounds:
        again = bench.measured_ms(models[name], -(-repeats // rounds))
        found[name] = {model: min(ms, found.get(name, again)[model]) for model, ms in again.items()}
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
