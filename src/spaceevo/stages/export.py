"""Job export: a subnet as files that equal the trained network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import FiniteFloat

from spaceevo.artifacts import Plain, values, write_csv
from spaceevo.artifacts.shell import quoted
from spaceevo.artifacts.values import Name, Positive
from spaceevo.artifacts.work import Amount, Extent
from spaceevo.errors import ConfigError
from spaceevo.export.bundle import PRECISIONS, save_bundle
from spaceevo.export.gate import PIXELS, Gate, asked_formats, check_float, top1
from spaceevo.export.parity import Tolerance
from spaceevo.lit.matching import evaluation_settings
from spaceevo.lit.random_images import RandomImages
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.evaluate import Batch, logits_of
from spaceevo.platforms.microcontroller import check_memory
from spaceevo.report.latency import draw_operators
from spaceevo.runtimes.base import FileOptions, Profile, Runtime
from spaceevo.runtimes.machine import machine_name
from spaceevo.runtimes.plain import to_plain
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.runtimes.registry import other_runtime, runtime_for
from spaceevo.runtimes.timing import time_models
from spaceevo.space.cost import subnet_cost
from spaceevo.stages.extraction import Extraction, Int8Form, Subject
from spaceevo.stages.job import Input, Outcome, Workspace, file_input, images_input
from spaceevo.stages.selection import SupernetBasedJob
from spaceevo.stages.settings import Count, SubnetSettings, SupernetSettings, Texts
from spaceevo.terminal import doing

PARITY = "parity"  # A kind of work
UNTRAINED = 3.0
"""Factor of the difference that random weights may make: they enlarge what rounding changes from layer to layer."""


@dataclass(frozen=True)
class ExportRecipe:
    """Says what is written, and how near it has to be to the trained network."""

    format: Texts  # the file formats, one or several
    # channels to which files pack the pixels of narrow convolutions; None packs as the platform
    packed_channels: Count | None
    preprocessing: Literal["inside", "outside"]  # `inside` lets the files take pixels and normalise them
    min_agreement: Annotated[FiniteFloat, Ge(0), Le(100)]  # images with the trained network's top-1, in percent
    max_mean_difference: values.Amount  # mean difference of logits over their standard deviation
    allow_float: bool  # whether INT8 files may compute in float
    calibration_images: Count  # for the ranges that a network under `published` lacks
    repeats: Count  # timings; the least counts


@dataclass(frozen=True, kw_only=True)
class ExportSettings(SupernetSettings, SubnetSettings):
    """Says which subnet is exported, by default what the last subnet search chose."""

    packed_channels: Count | None  # channels to which the platform's files pack the pixels of narrow convolutions
    runtime: Name | None  # the platform's, which files of its format must pass too; None where that is a table
    arena_kb: Positive | None  # memory of a microcontroller for what lives, in kB; None sets no limit
    flash_kb: Positive | None  # memory of a microcontroller for the file, likewise
    recipe: ExportRecipe  # what is written


class ExportJob(SupernetBasedJob[ExportSettings]):
    """Writes a subnet as INT8 and fp32 files, under `quant=off` as the latter; proves that they compute the network.

    Random weights need no images: noise takes their place.
    """

    name = "export"
    main_figure = "agreement"

    def __init__(self, settings: ExportSettings, workspace: Workspace) -> None:
        super().__init__(settings, workspace)
        if settings.weights == "random":
            data, classes = self.data, self.superspace.num_classes
            self.data = RandomImages(
                root=data.root, transform=data.transform, seed=settings.seed, number_of_classes=classes
            )

    @cached_property
    def formats(self) -> list[str]:
        """The file formats asked for; an unknown one is a `ConfigError`."""
        return asked_formats(self.settings.recipe.format or ())

    @cached_property
    def other_runtime(self) -> Runtime | None:
        """The platform's runtime, where it executes one of the formats and does not write it itself."""
        runtime = other_runtime(self.settings.runtime, self.formats)
        if runtime is not None:
            runtime.require()
        return runtime

    @cached_property
    def extraction(self) -> Extraction:
        """Takes the subnet out of its supernets."""
        return Extraction(self)

    def inputs(self) -> Mapping[str, Input]:
        """Return the images, and the subnet's own checkpoint; or supernets, and what was found and kept."""
        settings = self.settings
        found = {"images": images_input(self.data)}
        if self.given is not None and settings.checkpoint is not None:
            return {**found, "subnet": file_input(settings.checkpoint)}
        precisions = (True, False) if settings.int8 else (False,)
        found |= {**super().inputs(), **self.supernet_inputs(*precisions)}
        if settings.subnet is None:
            found["front"] = file_input(self.front_file)
        spec = self.best_subnet()
        kept = {int8: self.extraction.kept(spec, int8=int8) for int8 in precisions}
        names = {True: "kept_int8", False: "kept_fp32"}
        return found | {names[int8]: file_input(file) for int8, file in kept.items() if file is not None}

    def check(self) -> None:
        """Tell also what cannot be exported."""
        super().check()
        asked = self.settings.subnet
        if isinstance(asked, tuple) and len(asked) > 1:
            listed = ",".join(asked)
            raise ConfigError(f"subnet = [{listed}]; allowed: one subnet; export them one by one: -m 'subnet={listed}'")
        runtime = self.other_runtime
        if runtime is not None and not runtime.normalises and self.settings.recipe.preprocessing == "inside":
            allowed = f"allowed with platform.runtime={runtime.name}: outside, it takes no pixels"
            raise ConfigError(f"recipe.export.preprocessing = inside; {allowed}")

    def amounts(self) -> Mapping[str, Amount]:
        """Return the images on which files are compared with the network."""
        return {PARITY: Amount(1, self.data.tested_on)}

    def reduced(self, extent: Extent) -> Mapping[str, Plain]:
        """Let files pass that are of a network all but untrained, which answers by chance.

        Where neither a subnet nor a checkpoint is given, the largest stands for the one that a search will choose.
        """
        passed: dict[str, Plain] = {"recipe.min_agreement": 0, "recipe.max_mean_difference": 100}
        is_given = self.settings.subnet is not None or self.settings.checkpoint is not None
        return passed if is_given else {**passed, "subnet": "max"}

    def work(self) -> Outcome:
        """Extract, convert, compare; then write.

        Raises:
            ExportError: a file is not the trained network; none is written then.
        """
        recipe = self.settings.recipe
        subject = self._subject()
        memory = self._memory(subject)  # told before the gate, which takes longer
        with doing(PARITY):
            checked = self._check(subject)
        figures: dict[str, Any] = {"subnet": str(subject.spec), "machine": machine_name(), **checked}
        outputs = self._write(subject)
        folder, repeats = self.workspace.output, recipe.repeats
        costs, pictures = file_costs(outputs, self.formats, repeats, folder, self.other_runtime)
        cost = subnet_cost(subject.member, subject.spec)
        figures |= {**costs, **memory, "mmacs": cost.mmacs, "mparams": cost.mparams}
        return Outcome(figures, {**outputs, **pictures}, self._next(subject))

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        inside = self.settings.recipe.preprocessing == "inside"
        return Preprocessing.of(evaluation_settings(self.data), inside=inside)

    @property
    def _packed_channels(self) -> int | None:
        asked = self.settings.recipe.packed_channels
        return self.settings.packed_channels if asked is None else asked

    def _subject(self) -> Subject:
        _ = self.classes  # faults of the images are told first
        if self.given is not None:
            return Subject.given(self.extraction, self.given, self.settings.recipe.calibration_images)
        return Subject.extracted(self.extraction, self.best_subnet(), self.settings.recipe.calibration_images)

    def _memory(self, subject: Subject) -> dict[str, float]:
        """Figures of a microcontroller's memory, where the platform is one; raises where the network does not fit."""
        if subject.int8 is None or self.settings.runtime != "tflite_micro":
            return {}
        texts = subject.metadata(self.classes, self._preprocessing)
        return check_memory(subject.int8.program, self.settings.arena_kb, self.settings.flash_kb, texts)

    @property
    def _is_untrained(self) -> bool:
        return self.given is None and self.settings.weights == "random"

    @property
    def _tolerance(self) -> Tolerance:
        """How far files may be off; of random weights, whose top-1 means nothing, the logits alone decide."""
        recipe = self.settings.recipe
        if self._is_untrained:
            return Tolerance(0.0, UNTRAINED * recipe.max_mean_difference)
        return Tolerance(recipe.min_agreement, recipe.max_mean_difference)

    def _check(self, subject: Subject) -> dict[str, Any]:
        """Figures of parity of every file, and top-1 where weights are trained; raises where one is not the network."""
        batches = list(self.data.test())
        figures: dict[str, Any]
        if subject.int8 is None:
            figures = {**check_float(subject.fp32, self.formats, batches, subject.input_shape, self._tolerance)}
            figures["agreement"] = min(figures[f"{format}_fp32_agreement"] for format in self.formats)
        else:
            figures = self._check_int8(subject.int8, batches)
            figures["agreement"] = min(figures[f"{format}_agreement"] for format in self.formats)
        figures["fp32_top1"] = top1(*logits_of(to_plain(subject.fp32), batches))
        is_random = self.settings.weights == "random"
        return {name: value for name, value in figures.items() if not (is_random and name.endswith("top1"))}

    def _check_int8(self, int8: Int8Form, batches: Sequence[Batch]) -> dict[str, Any]:
        tolerance, allow_float = self._tolerance, self.settings.recipe.allow_float
        is_trained = self.settings.weights != "random"
        gate = Gate(int8.network, int8.program, batches, self._packed_channels, is_trained=is_trained)
        figures: dict[str, Any] = {}
        if is_trained and int8.trained is not int8.network:
            figures |= gate.check_origin(int8.trained, tolerance)
        for format in self.formats:
            figures |= gate.check(format, tolerance, allow_float=allow_float)
            if self.other_runtime is not None and self.other_runtime.format == format:
                figures |= gate.check(format, tolerance, allow_float=allow_float, runtime=self.other_runtime)
            if self._preprocessing.inside:
                gate.check_pixels(format, self._preprocessing, tolerance if self._is_untrained else PIXELS)
        return figures | gate.figures()

    def _write(self, subject: Subject) -> dict[str, Path]:
        """Write every file; return them by name."""
        output, options = self.workspace.output, FileOptions(self._preprocessing, self._packed_channels)
        metadata = subject.metadata(self.classes, self._preprocessing)
        program = None if subject.int8 is None else subject.int8.program
        shape = subject.input_shape
        outputs = save_bundle(output, self.formats, program, subject.fp32, shape, metadata, options)
        transform = evaluation_settings(self.data)
        network, quant = (subject.fp32, "off") if subject.int8 is None else (subject.int8.network, subject.int8.quant)
        outputs["checkpoint"] = output / ("subnet_fp32.pth" if quant == "off" else "subnet_int8.pth")
        meta = CheckpointMeta(
            str(subject.member), str(subject.spec), classes=self.classes, transform=transform, quant=quant
        )
        save_checkpoint(outputs["checkpoint"], network, meta)
        return outputs

    def _next(self, subject: Subject) -> str:
        changes = [f"space={subject.member}", f"quant={self.settings.quant}"]
        if self.given is not None:  # no search chose it
            changes.append(f"subnet={subject.spec}")
        output = self.workspace.output
        if output.absolute() != self.workspace.exported.absolute():
            changes.append(f"paths.exported={quoted(output)}")
        return self.workspace.commands("benchmark", *changes, without=("checkpoint", "weights"))


def file_costs(
    files: Mapping[str, Path], formats: Sequence[str], repeats: int, output: Path, other: Runtime | None = None
) -> tuple[dict[str, float], dict[str, Path]]:
    """Measure exported files (`onnx_int8` → path) side by side, and the operators of the INT8 ones, on this machine.

    Args:
        files: the files by format and precision.
        formats: the formats to measure.
        repeats: timings of each; the least counts.
        output: folder of the tables and pictures of operators.
        other: a further runtime that executes files of one of the formats; its figures have its name.

    Returns:
        Figures by name (kB, ms), and the tables and pictures written.
    """
    runtimes = {format: runtime_for(format) for format in formats} | ({other.name: other} if other else {})
    written = [
        (name, of) for name, runtime in runtimes.items() for of in PRECISIONS if f"{runtime.format}_{of}" in files
    ]
    contents = {f"{name}_{of}": files[f"{runtimes[name].format}_{of}"].read_bytes() for name, of in written}
    sessions = {f"{name}_{of}": runtimes[name].load(contents[f"{name}_{of}"]) for name, of in written}
    latency_ms = {name: timing.latency_ms for name, timing in time_models(sessions, lambda it: it, repeats).items()}
    figures = {f"{name}_{of}_file_kb": len(contents[f"{name}_{of}"]) / 1e3 for name, of in written if name in formats}
    figures |= {f"{name}_latency_ms": ms for name, ms in latency_ms.items()}
    tables: dict[str, Path] = {}
    for name in (name for name, of in written if of == "int8"):
        figures[f"{name}_int8_speedup"] = latency_ms[f"{name}_fp32"] / latency_ms[f"{name}_int8"]
        profile = runtimes[name].profile(contents[f"{name}_int8"], repeats)
        if profile.whole_ms is not None:
            figures[f"{name}_operators_ms"] = sum(operator.least_ms for operator in profile.operators)
            figures[f"{name}_operators_whole_ms"] = profile.whole_ms
        tables |= _write_operators(output, name, profile)
    return figures, tables


def _write_operators(output: Path, name: str, profile: Profile) -> dict[str, Path]:
    """Write and draw the times of a file's operators; return what was written."""
    table, drawing = (output / f"profile_{name}.{suffix}" for suffix in ("csv", "png"))
    write_csv(table, [{"stage": operator.stage, **operator._asdict()} for operator in profile.operators])
    apart = "" if profile.whole_ms is None else f", whole {profile.whole_ms:.3f} ms, operators one by one"
    rows = [(operator.stage, operator.kind, operator.least_ms) for operator in profile.operators]
    draw_operators(drawing, f"{machine_name()}\nINT8 {name}{apart}", rows)
    return {f"{name}_profile": table, f"{name}_profile_picture": drawing}
