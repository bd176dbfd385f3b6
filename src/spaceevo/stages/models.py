"""Job models: listed subnets with random weights as files, checked and measured, in one table and without images."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from spaceevo.artifacts import Component, write_bytes, write_csv
from spaceevo.artifacts.values import Amount, Seed
from spaceevo.errors import ConfigError, ExportError
from spaceevo.export.parity import Tolerance, compare
from spaceevo.platforms.base import Platform
from spaceevo.quant.program import Executor, Program
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.runtimes.base import Runtime
from spaceevo.runtimes.random_program import random_program
from spaceevo.space.cost import subnet_cost
from spaceevo.space.listing import Listed, read_list
from spaceevo.space.placement import subnet_blocks
from spaceevo.stages.bench import Bench, Models, make_benches, measure_in_turn, print_fastest, random_network
from spaceevo.stages.job import Input, Job, Outcome, Workspace, file_input, platform_input
from spaceevo.stages.measured import measured_platform
from spaceevo.stages.settings import ChainQuant, Count
from spaceevo.terminal import print_rows, progress

COLUMNS = {
    "number": "no.",
    "space": "space",
    "mmacs": "MMACs",
    "file_kb": "kB",
    "int8_ms": "INT8 ms",
    "fp32_ms": "fp32 ms",
    "difference": "difference",
    "subnet": "subnet",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class ModelsRecipe:
    """Says how listed subnets are checked and measured."""

    repeats: Count  # timings of each; the least counts
    images: Count  # random images on which files are compared with the exact executor
    max_mean_difference: Amount  # mean difference of logits allowed, over their standard deviation


@dataclass(frozen=True, kw_only=True)
class ModelsSettings:
    """Says which subnets are written and measured, and where."""

    models: Path | None  # file of lines `superspace,space,subnet`
    platform: Component[Platform]  # the platform, where `platforms` lists none
    platforms: Mapping[str, Component[Platform]]  # several platforms by name
    quant: ChainQuant  # scheme of quantisation
    seed: Seed  # seed of the images
    recipe: ModelsRecipe  # how


class ModelsJob(Job[ModelsSettings]):
    """Writes listed subnets, INT8 and fp32, for every platform's runtime, and measures them.

    Weights are random, on which latency does not depend, and no image is looked at: INT8 files are compared with the
    exact executor on noise.
    """

    name = "models"
    main_figure = "int8_latency_ms"

    def __init__(self, settings: ModelsSettings, workspace: Workspace) -> None:
        super().__init__(settings, workspace.set_apart(Path(settings.models or "").stem))

    @cached_property
    def listed(self) -> list[Listed]:
        """The subnets; an `EncodingError` tells line and column of a fault."""
        if self.settings.models is None:
            raise ConfigError("models = null; name a file of lines superspace,space,subnet: models=input.csv")
        return read_list(self.settings.models)

    def inputs(self) -> Mapping[str, Input]:
        """Return the list, whose faults are told here, and what the platforms measured before."""
        _ = self.listed
        found = {f"platform_{name}": platform_input(b.platform) for name, b in self.benches.items()}
        return {"models": file_input(self.settings.models or Path())} | found

    @cached_property
    def benches(self) -> dict[str, Bench]:
        """The platforms by name; one that cannot be measured is a `ConfigError`."""
        make = partial(measured_platform, self.workspace.make)
        return make_benches(make, self.settings.platform, self.settings.platforms)

    def work(self) -> Outcome:
        """Write and check every file, then measure all."""
        limit = quant_scheme(self.settings.quant).weight.limit
        programs = [random_program(subnet_blocks(*one), limit) for one in self.listed]
        rows: list[Row] = []
        models: dict[str, Models] = {name: {} for name in self.benches}
        outputs: dict[str, Path] = {"table": self.workspace.output / "models.csv"}
        with progress() as bar:
            for number, (one, program) in enumerate(bar.track([*zip(self.listed, programs, strict=True)]), start=1):
                cost = subnet_cost(*one)
                told = {"space": str(one.member), "subnet": str(one.spec), "mmacs": cost.mmacs, "mparams": cost.mparams}
                for name, bench in self.benches.items():
                    files = self._files(bench, one, program, number)
                    difference = self._check(bench.runtime, files["int8"], program, number)
                    outputs |= self._write(bench.runtime, files, number)
                    models[name] |= {f"{precision} {number}": file for precision, file in files.items()}
                    kb = len(files["int8"]) / 1e3
                    rows.append({"platform": name, "number": number, **told, "file_kb": kb, "difference": difference})
        found = measure_in_turn(self.benches, models, self.settings.recipe.repeats)
        for row in rows:
            for precision in ("int8", "fp32"):
                row[f"{precision}_ms"] = found[row["platform"]][f"{precision} {row['number']}"]
        return self._told(rows, outputs)

    def _files(self, bench: Bench, one: Listed, program: Program, number: int) -> dict[str, bytes]:
        texts = {"space": str(one.member), "subnet": str(one.spec), "weights": "random"}
        of_int8 = {**texts, "quant": self.settings.quant}
        if bench.measuring is not None:
            try:
                bench.measuring.require_room(program, of_int8)
            except ExportError as error:
                raise ExportError(f"subnet {number} of {self.settings.models}: {error}") from None
        float_file = bench.runtime.write_float(random_network(*one), program.input_shape, {**texts, "quant": "off"})
        return {"int8": bench.runtime.write(program, of_int8), "fp32": float_file}

    def _check(self, runtime: Runtime, file: bytes, program: Program, number: int) -> float:
        """Compare an INT8 file with the exact executor on noise; return the mean difference of logits in their std.

        Raises:
            ExportError: they differ by more than allowed.
        """
        recipe, generator = self.settings.recipe, torch.Generator().manual_seed(self.settings.seed)
        images = torch.randn(recipe.images, *program.input_shape, generator=generator)
        step = program.tensors[program.output_name].scale
        report = compare(Executor(program)(images), runtime.load(file).logits(images), step)
        if not runtime.caution(program.largest_weight):
            what = f"the {runtime.format} file of subnet {number} in {runtime.name}"
            Tolerance(0, recipe.max_mean_difference).check(what, report, "not looked for")
        return report.mean_difference

    def _write(self, runtime: Runtime, files: Mapping[str, bytes], number: int) -> dict[str, Path]:
        written = {}
        for precision, content in files.items():
            name = f"{number:03d}_{precision}.{runtime.format}"
            written[name] = self.workspace.output / name
            write_bytes(written[name], content)
        return written

    def _told(self, rows: list[Row], outputs: Mapping[str, Path]) -> Outcome:
        write_csv(outputs["table"], rows)
        # of the list as it was, or of other platforms
        for other in {*self.workspace.output.glob("[0-9]*_*.*")} - {*outputs.values()}:
            other.unlink()
        for name, bench in self.benches.items():
            mine = zip(self.listed, (row for row in rows if row["platform"] == name), strict=True)
            shown = [{**row, "difference": f"{row['difference']:.2g}", "subnet": one.name} for one, row in mine]
            print_rows(shown, COLUMNS, f"{name}, {bench.machine}: random weights")
        figures: dict[str, Any] = {"subnets": rows, "int8_latency_ms": rows[0]["int8_ms"]}
        if len(self.benches) > 1:
            figures["fastest"] = print_fastest(rows)
        return Outcome(figures, outputs)
