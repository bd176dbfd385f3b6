"""Job benchmark: asked, predicted and measured latency of subnets, side by side, INT8 and fp32."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spaceevo.artifacts import Component, require_undamaged, write_csv
from spaceevo.artifacts.work import Amount
from spaceevo.errors import ExportError, MissingArtifactError
from spaceevo.export.bundle import PRECISIONS, file_name
from spaceevo.latency.accuracy import PredictionError
from spaceevo.platforms.base import Platform
from spaceevo.report.front import draw_precisions
from spaceevo.report.latency import draw_predictions
from spaceevo.runtimes.base import Runtime
from spaceevo.search.limits import Limit
from spaceevo.space.encoding import SubnetSpec
from spaceevo.stages.bench import (
    FILES,
    MEASURED,
    Bench,
    Latencies,
    Models,
    make_benches,
    measure_in_turn,
    print_fastest,
    rounds_of,
)
from spaceevo.stages.job import Input, Outcome, file_input, platform_input
from spaceevo.stages.selection import SpaceJob
from spaceevo.stages.settings import Count, SubnetSettings

USUAL_FRONT = 5  # Subnets that a front has, and the chosen one
Row = dict[str, Any]


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


class BenchmarkJob(SpaceJob[BenchmarkSettings]):
    """Measures subnets on one or several platforms: those asked for, or the chosen one and the found front.

    Latency does not depend on weights: but for the exported subnet's files, they are random.
    """

    name = "benchmark"
    main_figure = "int8_latency_ms"

    @cached_property
    def benches(self) -> dict[str, Bench]:
        """The platforms by name."""
        return make_benches(self.workspace.make, self.settings.platform, self.settings.platforms)

    def inputs(self) -> Mapping[str, Input]:
        """Return the exported files, what the platforms predict by, and the front unless subnets are asked for."""
        exported, found = self.workspace.exported, dict(super().inputs())
        for name, bench in self.benches.items():
            format = bench.runtime.format
            found |= {f"{format}_{of}": file_input(exported / file_name(format, of)) for of in PRECISIONS}
            found["platform" if len(self.benches) == 1 else f"platform_{name}"] = platform_input(bench.platform)
        return found if self.settings.subnet is not None else {**found, "front": file_input(self.front_file)}

    def amounts(self) -> Mapping[str, Amount]:
        """Return the subnets of which files are written, and the files measured; of no front yet the usual number."""
        asked = self.settings.subnet
        subnets = USUAL_FRONT if asked is None else 1 if isinstance(asked, str) else len(asked)
        if asked is None and self._has_front():
            subnets = len(self._specs_and_asked()[0])
        written = sum(subnets for bench in self.benches.values() if bench.measuring)
        exported = sum(1 for bench in self.benches.values() if not bench.measuring)  # is all that a table measures
        measured = len(PRECISIONS) * (written + exported) * rounds_of(self.benches, self.settings.recipe.repeats)
        return {**({FILES: Amount(written)} if written else {}), MEASURED: Amount(measured)}

    def _has_front(self) -> bool:
        try:
            return self.front_file.exists()
        except MissingArtifactError:  # no space has been found yet
            return False

    def work(self) -> Outcome:
        """Predict, measure side by side, compare."""
        specs, asked_ms = self._specs_and_asked()
        found_ms = self._measured_ms(specs)
        rows = {
            name: self._rows(bench, specs, asked_ms.get(name) or asked_ms.get(bench.platform.name, {}), found_ms[name])
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
        if self.settings.subnet is None and all(row["int8_ms"] and row["fp32_ms"] for row in every):
            picture = outputs["front_picture"] = output / "front.png"
            draw_precisions(picture, self._with_top1(every), f"{self.member}, {first.runtime.name} on {first.machine}")
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
        is_known = bench.platform.knows_latencies
        predicted_ms = bench.platform.subnets_ms(self.member, specs).tolist() if is_known else [None] * len(specs)
        return [
            {
                "subnet": str(spec),
                "asked_ms": asked_ms.get(str(spec)),
                "predicted_ms": ms,
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

    def _with_top1(self, rows: Sequence[Row]) -> list[Row]:
        """Rows of the front's subnets, each with its top-1."""
        top1 = {row.subnet: row.top1 for row in self.front().front}
        return [{**row, "top1": top1[row["subnet"]]} for row in rows if row["subnet"] in top1]

    def _measured_ms(self, specs: Sequence[SubnetSpec]) -> dict[str, Latencies]:
        models = {name: bench.models(self.member, specs, self._exported(bench)) for name, bench in self.benches.items()}
        return measure_in_turn(self.benches, models, self.settings.recipe.repeats)

    def _exported(self, bench: Bench) -> Models:
        """Read the exported files of the platform's format that are of this space."""
        found: Models = {}
        for precision in PRECISIONS:
            path = self.workspace.exported / file_name(bench.runtime.format, precision)
            require_undamaged(path, self.workspace.commands("export"))
            file = path.read_bytes() if path.is_file() else b""
            texts = _texts(bench.runtime, path, file) if file else {}
            if texts.get("space") == str(self.member):
                if "quant" in texts and (texts["quant"] == "off") != (precision == "fp32"):
                    again = self.workspace.commands("export", "force=true")
                    raise ExportError(f"{path} holds no {precision} network; make it again with: {again}")
                found[f"{precision} {texts['subnet']}"] = file
        return found


def _texts(runtime: Runtime, path: Path, file: bytes) -> Mapping[str, str]:
    """What a file says of its network; the fault of one that cannot be read names it."""
    try:
        return runtime.metadata(file)
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error


def _first(row: Row) -> dict[str, Any]:
    """The figures of the first subnet by the names that the pipeline shows."""
    figures = {"subnet": row["subnet"], "predicted_latency_ms": row["predicted_ms"]}
    figures |= {f"{precision}_latency_ms": row[f"{precision}_ms"] for precision in PRECISIONS}
    if row["int8_ms"] and row["fp32_ms"]:
        figures["int8_speedup"] = row["fp32_ms"] / row["int8_ms"]
    return figures


def _by_ms(chosen: Mapping[str, str]) -> list[tuple[float, str]]:
    """Limits of latency in ms and the subnets that are the best within them; other limits are left out."""
    return [(ms, subnet) for limit, subnet in chosen.items() if (ms := Limit.of_key(limit).ms) is not None]
