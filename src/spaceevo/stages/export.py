"""Stage export: a subnet as files that equal the trained network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spaceevo.errors import ConfigError, ExportError, choices
from spaceevo.export.bundle import PRECISIONS, Bundle
from spaceevo.export.gate import Gate, asked_formats, top1
from spaceevo.export.parity import Tolerance, compare
from spaceevo.nn.deployable import make_deployable
from spaceevo.nn.evaluate import calibrate_subnet, logits_of
from spaceevo.nn.subnets import Subnet, save_subnet
from spaceevo.nn.supernet import Network
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.program import Program
from spaceevo.report.latency import draw_operators
from spaceevo.runtimes.base import Profile
from spaceevo.runtimes.machine import machine_name
from spaceevo.runtimes.plain import to_plain
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.runtimes.registry import runtime_for
from spaceevo.runtimes.timing import time_models
from spaceevo.space.cost import subnet_cost
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.base import Context, Outcome, StageCallback, write_csv


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        member: its space.
        spec: the subnet.
        trained: the INT8 network as it was trained.
        int8: it under `deploy`; the same unless it was trained under `published`.
        fp32: its fp32 twin.
        program: the integer program of `int8`.
        metadata: what the files say of themselves.
    """

    member: SpaceMember
    spec: SubnetSpec
    trained: Network
    int8: Network
    fp32: Network
    program: Program
    metadata: dict[str, str]


class ExportStage(StageCallback):
    """Writes a subnet as INT8 and fp32 files, and proves that every INT8 file computes the trained network."""

    name = "export"
    main_figure = "agreement"

    def inputs(self, context: Context) -> dict[str, Path]:
        """The subnet's own checkpoint; or both supernets, and the found subnet."""
        if context.given_subnet:
            return {"subnet": Path(context.plain["checkpoint"])}
        found = context.layout.subnet_search(str(context.member)) / "front.json"
        return {
            "int8": context.supernet_file(int8=True),
            "fp32": context.supernet_file(int8=False),
            "subnet": found,
        }

    def work(self, context: Context) -> Outcome:
        """Extract, convert, compare; then write."""
        if not context.int8:
            raise ExportError("quant=off has no INT8 weights to export; use quant=deploy or quant=published")
        context.count("repeats")  # checked before anything takes long
        asked = asked_formats(context.recipe["format"])
        preprocessing = _preprocessing(context)
        given = context.given_subnet
        subject = _given(context, given, preprocessing) if given else _found(context, preprocessing)
        figures: dict[str, Any] = {"subnet": str(subject.spec), "machine": machine_name()}
        figures |= _checked(context, subject, asked, preprocessing)
        outputs = _written(context, subject, asked, preprocessing)
        figures |= _costs(context, outputs, asked)
        cost = subnet_cost(subject.member, subject.spec)
        figures |= {"mmacs": cost.mmacs, "mparams": cost.mparams}
        following = context.command("benchmark", f"space={subject.member}", f"quant={context.config.quant.name}")
        return Outcome(figures, outputs, following)


def _given(context: Context, given: Subnet, preprocessing: Preprocessing) -> Subject:
    """The subnet of `checkpoint=…`; its fp32 twin has the same weights in floating point."""
    classes, path = tuple(context.data.classes), context.plain["checkpoint"]
    if given.quant != "deploy":
        raise ExportError(f"{path} is of quant={given.quant}; export needs quant=deploy")
    if given.classes != classes:
        raise ExportError(
            f"{path} knows the classes {choices(given.classes)}, the data {choices(classes)}; "
            "set data=… or data.root=… to what it was finetuned on"
        )
    fp32 = copy.deepcopy(given.network)
    set_quant(fp32, False)
    metadata = _metadata(given.member, given.spec, classes, preprocessing, given.quant)
    program = to_program(given.network, _shape(context, given.spec))
    return Subject(given.member, given.spec, given.network, given.network, fp32, program, metadata)


def _found(context: Context, preprocessing: Preprocessing) -> Subject:
    """The subnet asked for, or found, extracted from its supernets."""
    member, spec, quant = context.member, context.best_subnet(), str(context.config.quant.name)
    trained = int8 = _extract(context, spec, int8=True)
    metadata = _metadata(member, spec, context.data.classes, preprocessing, quant)
    if quant == "published":
        images = torch.cat(list(context.data.calibration_images()))[: context.recipe["calibration_images"]]
        int8, calibrated = make_deployable(trained, images)
        metadata["ranges"] = f"calibrated on {len(images)} images: {', '.join(calibrated)}"
    program, fp32 = to_program(int8, _shape(context, spec)), _extract(context, spec, int8=False)
    return Subject(member, spec, trained, int8, fp32, program, metadata)


def _metadata(
    member: SpaceMember, spec: SubnetSpec, classes: Sequence[str], preprocessing: Preprocessing, quant: str
) -> dict[str, str]:
    return {
        "space": str(member),
        "subnet": str(spec),
        "resolution": str(spec.resolution),
        "classes": ",".join(classes),
        "preprocessing": preprocessing.text(),
        "quant": quant,
    }


def _shape(context: Context, spec: SubnetSpec) -> tuple[int, int, int]:
    return (context.superspace.input_channels, spec.resolution, spec.resolution)


def _extract(context: Context, spec: SubnetSpec, int8: bool) -> Network:
    supernet = context.supernet(int8)
    calibrate_subnet(supernet, spec, context.data.calibration_images())
    return supernet.extract(spec)


def _preprocessing(context: Context) -> Preprocessing:
    asked, transform = context.recipe["preprocessing"], context.data.transform
    if asked not in ("inside", "outside"):
        raise ConfigError(f"recipe.export.preprocessing = {asked}; allowed: inside, outside")
    return Preprocessing(
        tuple(transform.mean),
        tuple(transform.std),
        transform.resize,
        transform.size,
        transform.interpolation,
        inside=asked == "inside",
    )


def _packed_channels(context: Context) -> int | None:
    """Channels that narrow convolutions are packed to: as the recipe says, or else the platform."""
    name, asked = "recipe.export.packed_channels", context.recipe["packed_channels"]
    if asked is None:
        name, asked = "platform.packed_channels", context.plain["platform"].get("packed_channels")
    if asked is not None and (not isinstance(asked, int) or asked < 1):
        raise ConfigError(f"{name} = {asked}; allowed: null, or a positive integer")
    return None if asked is None else int(asked)


def _checked(context: Context, subject: Subject, asked: list[str], preprocessing: Preprocessing) -> dict[str, Any]:
    """Figures of parity of every INT8 file; raises where one is not the trained network."""
    recipe, batches = context.recipe, list(context.data.test())
    gate = Gate(subject.int8, subject.program, batches, _packed_channels(context))
    figures: dict[str, Any] = dict(gate.figures())
    tolerance = Tolerance(recipe["min_agreement"], recipe["max_mean_difference"])
    if subject.trained is not subject.int8:
        published, labels = logits_of(subject.trained, batches)
        found = compare(published, gate.exact)
        tolerance.check("the program with calibrated ranges", found, "ranges that integer runtimes cannot express")
        figures |= {
            "published_int8_top1": top1(published, labels),
            "published_agreement": found.agreement,
            "published_mean_difference_std": found.mean_difference,
        }
    for format in asked:
        figures |= gate.check(format, tolerance, allow_float=recipe["allow_float"])
        if preprocessing.inside:
            gate.check_pixels(format, preprocessing)
    figures["agreement"] = min(figures[f"{format}_agreement"] for format in asked)
    figures["fp32_top1"] = top1(*logits_of(to_plain(subject.fp32), batches))
    return figures


def _written(context: Context, subject: Subject, asked: list[str], preprocessing: Preprocessing) -> dict[str, Path]:
    """Write every file; return them by name."""
    bundle = Bundle(subject.program, subject.fp32, subject.metadata, preprocessing, _packed_channels(context))
    outputs = bundle.save(context.output, asked)
    outputs["checkpoint"] = context.output / "subnet_int8.pth"
    save_subnet(outputs["checkpoint"], subject.int8, subject.member, subject.spec, context.data.classes, "deploy")
    return outputs


def _costs(context: Context, outputs: dict[str, Path], asked: list[str]) -> dict[str, float]:
    """Sizes and interleaved latencies of the files; where the INT8 files' time goes is drawn."""
    repeats = context.count("repeats")
    runtimes = {f"{format}_{of}": runtime_for(format) for format in asked for of in PRECISIONS}
    files = {name: outputs[name].read_bytes() for name in runtimes}
    sessions = {name: runtime.load(files[name]) for name, runtime in runtimes.items()}
    times = {
        name: timing.latency_ms for name, timing in time_models(sessions, lambda session: session, repeats).items()
    }
    figures = {f"{name}_file_kb": len(file) / 1e3 for name, file in files.items()}
    figures |= {f"{name}_latency_ms": ms for name, ms in times.items()}
    figures |= {f"{format}_int8_speedup": times[f"{format}_fp32"] / times[f"{format}_int8"] for format in asked}
    for format in asked:
        profile = runtime_for(format).profile(files[f"{format}_int8"], repeats)
        if profile.whole_ms is not None:
            figures[f"{format}_operators_ms"] = sum(operator.least_ms for operator in profile.operators)
            figures[f"{format}_operators_whole_ms"] = profile.whole_ms
        outputs |= _profiled(context, format, profile)
    return figures


def _profiled(context: Context, format: str, profile: Profile) -> dict[str, Path]:
    """Write and draw the times of a file's operators; return what was written."""
    table, drawing = (context.output / f"profile_{format}.{kind}" for kind in ("csv", "png"))
    write_csv(table, [{"stage": operator.stage, **operator._asdict()} for operator in profile.operators])
    apart = "" if profile.whole_ms is None else f", whole {profile.whole_ms:.3f} ms, operators one by one"
    rows = [(operator.stage, operator.kind, operator.least_ms) for operator in profile.operators]
    draw_operators(drawing, f"{machine_name()}\nINT8 {format}{apart}", rows)
    return {f"{format}_profile": table, f"{format}_profile_picture": drawing}
