"""Job export: a subnet as files that equal the trained network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import FiniteFloat

from spaceevo.artifacts import write_csv
from spaceevo.artifacts.values import Amount
from spaceevo.errors import ConfigError, ExportError
from spaceevo.export.bundle import PRECISIONS, save_bundle
from spaceevo.export.gate import PIXELS, Gate, asked_formats, top1
from spaceevo.export.parity import Tolerance
from spaceevo.lit.matching import evaluation_settings
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.evaluate import logits_of
from spaceevo.report.latency import draw_operators
from spaceevo.runtimes.base import FileOptions, Profile
from spaceevo.runtimes.machine import machine_name
from spaceevo.runtimes.plain import to_plain
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.runtimes.registry import runtime_for
from spaceevo.runtimes.timing import time_models
from spaceevo.space.cost import subnet_cost
from spaceevo.stages.extraction import Extraction, Subject
from spaceevo.stages.job import Input, Outcome, file_input, images_input
from spaceevo.stages.selection import SupernetBasedJob
from spaceevo.stages.settings import Count, SubnetSettings, SupernetSettings, Texts

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
    max_mean_difference: Amount  # mean difference of logits over their standard deviation
    allow_float: bool  # whether INT8 files may compute in float
    calibration_images: Count  # for the ranges that a network under `published` lacks
    repeats: Count  # timings; the least counts


@dataclass(frozen=True, kw_only=True)
class ExportSettings(SupernetSettings, SubnetSettings):
    """Says which subnet is exported, by default what the last subnet search chose."""

    packed_channels: Count | None  # channels to which the platform's files pack the pixels of narrow convolutions
    recipe: ExportRecipe  # what is written


class ExportJob(SupernetBasedJob[ExportSettings]):
    """Writes a subnet as INT8 and fp32 files, and proves that every INT8 file computes the trained network."""

    name = "export"
    main_figure = "agreement"

    @cached_property
    def formats(self) -> list[str]:
        """The file formats asked for; an unknown one is a `ConfigError`."""
        return asked_formats(self.settings.recipe.format or ())

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
        found |= {**super().inputs(), **self.supernet_inputs(True, False)}
        if settings.subnet is None:
            found["front"] = file_input(self.front_file)
        spec = self.best_subnet()
        kept = {of: self.extraction.kept(spec, int8=of == "int8") for of in PRECISIONS}
        return found | {f"kept_{of}": file_input(file) for of, file in kept.items() if file is not None}

    def check(self) -> None:
        """Tell also what cannot be exported."""
        super().check()
        asked = self.settings.subnet
        if not self.settings.int8:
            raise ExportError("quant=off has no INT8 weights to export; use quant=deploy or quant=published")
        if isinstance(asked, tuple) and len(asked) > 1:
            listed = ",".join(asked)
            raise ConfigError(f"subnet = [{listed}]; allowed: one subnet; export them one by one: -m 'subnet={listed}'")
        _ = self.formats

    def work(self) -> Outcome:
        """Extract, convert, compare; then write.

        Raises:
            ExportError: a file is not the trained network; none is written then.
        """
        recipe = self.settings.recipe
        subject = self._subject()
        figures: dict[str, Any] = {"subnet": str(subject.spec), "machine": machine_name(), **self._check(subject)}
        outputs = self._write(subject)
        costs, pictures = file_costs(outputs, self.formats, recipe.repeats, self.workspace.output)
        cost = subnet_cost(subject.member, subject.spec)
        figures |= {**costs, "mmacs": cost.mmacs, "mparams": cost.mparams}
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
            return Subject.given(self.given, self.settings.checkpoint)
        spec = self.best_subnet()
        return Subject.extracted(self.extraction, spec, self.settings.recipe.calibration_images)

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
        """Figures of parity of every INT8 file; raises where one is not the trained network."""
        recipe, batches = self.settings.recipe, list(self.data.test())
        gate = Gate(subject.int8, subject.program, batches, self._packed_channels)
        tolerance = self._tolerance
        figures: dict[str, Any] = {}
        if subject.trained is not subject.int8:
            figures |= gate.check_origin(subject.trained, tolerance)
        for format in self.formats:
            figures |= gate.check(format, tolerance, allow_float=recipe.allow_float)
            if self._preprocessing.inside:
                gate.check_pixels(format, self._preprocessing, tolerance if self._is_untrained else PIXELS)
        figures |= gate.figures()
        figures["agreement"] = min(figures[f"{format}_agreement"] for format in self.formats)
        figures["fp32_top1"] = top1(*logits_of(to_plain(subject.fp32), batches))
        return figures

    def _write(self, subject: Subject) -> dict[str, Path]:
        """Write every file; return them by name."""
        output, options = self.workspace.output, FileOptions(self._preprocessing, self._packed_channels)
        metadata = subject.metadata(self.classes, self._preprocessing)
        outputs = save_bundle(output, self.formats, subject.program, subject.fp32, metadata, options)
        outputs["checkpoint"] = output / "subnet_int8.pth"
        transform = evaluation_settings(self.data)
        meta = CheckpointMeta(
            str(subject.member), str(subject.spec), classes=self.classes, transform=transform, quant="deploy"
        )
        save_checkpoint(outputs["checkpoint"], subject.int8, meta)
        return outputs

    def _next(self, subject: Subject) -> str:
        changes = [f"space={subject.member}", f"quant={self.settings.quant}"]
        if self.given is not None:  # no search chose it
            changes.append(f"subnet={subject.spec}")
        output = self.workspace.output
        if output.absolute() != self.workspace.exported.absolute():
            changes.append(f"paths.exported={output}")
        return self.workspace.commands("benchmark", *changes, without=("checkpoint",))


def file_costs(
    files: Mapping[str, Path], formats: Sequence[str], repeats: int, output: Path
) -> tuple[dict[str, float], dict[str, Path]]:
    """Measure exported files (`onnx_int8` → path) side by side, and the operators of the INT8 ones, on this machine.

    Returns:
        Figures by name (kB, ms), and the tables and pictures of operators written to the folder `output`.
    """
    runtimes = {f"{format}_{of}": runtime_for(format) for format in formats for of in PRECISIONS}
    contents = {name: files[name].read_bytes() for name in runtimes}
    sessions = {name: runtime.load(contents[name]) for name, runtime in runtimes.items()}
    latency_ms = {name: timing.latency_ms for name, timing in time_models(sessions, lambda it: it, repeats).items()}
    figures = {f"{name}_file_kb": len(content) / 1e3 for name, content in contents.items()}
    figures |= {f"{name}_latency_ms": ms for name, ms in latency_ms.items()}
    written: dict[str, Path] = {}
    for format in formats:
        figures[f"{format}_int8_speedup"] = latency_ms[f"{format}_fp32"] / latency_ms[f"{format}_int8"]
        profile = runtime_for(format).profile(contents[f"{format}_int8"], repeats)
        if profile.whole_ms is not None:
            figures[f"{format}_operators_ms"] = sum(operator.least_ms for operator in profile.operators)
            figures[f"{format}_operators_whole_ms"] = profile.whole_ms
        written |= _write_operators(output, format, profile)
    return figures, written


def _write_operators(output: Path, format: str, profile: Profile) -> dict[str, Path]:
    """Write and draw the times of a file's operators; return what was written."""
    table, drawing = (output / f"profile_{format}.{suffix}" for suffix in ("csv", "png"))
    write_csv(table, [{"stage": operator.stage, **operator._asdict()} for operator in profile.operators])
    apart = "" if profile.whole_ms is None else f", whole {profile.whole_ms:.3f} ms, operators one by one"
    rows = [(operator.stage, operator.kind, operator.least_ms) for operator in profile.operators]
    draw_operators(drawing, f"{machine_name()}\nINT8 {format}{apart}", rows)
    return {f"{format}_profile": table, f"{format}_profile_picture": drawing}
