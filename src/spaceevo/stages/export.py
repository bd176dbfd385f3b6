"""Stage export: a subnet as files that equal the trained network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spaceevo.errors import ConfigError, ExportError, choices
from spaceevo.export.bundle import FORMS, Bundle, forms
from spaceevo.export.float_onnx import export_float
from spaceevo.export.float_tflite import to_float_tflite
from spaceevo.export.onnx import save_file
from spaceevo.export.parity import Tolerance, compare
from spaceevo.export.plain import save_plain, to_plain
from spaceevo.export.preprocessing import Preprocessing
from spaceevo.export.profile import OperatorTime, layer_of, least_ms, profile_onnx, profile_tflite, runner
from spaceevo.latency.measure import machine_name
from spaceevo.nn.deployable import make_deployable
from spaceevo.nn.evaluate import calibrate_subnet, logits_of
from spaceevo.nn.subnets import Subnet, save_subnet
from spaceevo.nn.supernet import Network
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.program import Program
from spaceevo.quant.program_file import save_program
from spaceevo.report.operators import draw_operators
from spaceevo.space.cost import subnet_cost
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.base import Context, Outcome, StageCallback, write_csv

PRECISIONS = ("int8", "fp32")
PHONES = ("adb", "pixel4")


def file_name(form: str, precision: str) -> str:
    """Name of an exported file, e.g. `subnet_int8.onnx`."""
    return f"subnet_{precision}.{form}"


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
        asked, preprocessing = forms(context.recipe["format"]), _preprocessing(context)
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
    """Channels that narrow convolutions of TFLite files are packed to; phones have no use for it."""
    asked = context.recipe["packed_channels"]
    if asked is None and context.plain["platform"]["name"] in PHONES:
        return 1
    if asked is not None and (not isinstance(asked, int) or asked < 1):
        raise ConfigError(f"recipe.export.packed_channels = {asked}; allowed: null, or a positive integer")
    return asked if asked is None else int(asked)


def _checked(context: Context, subject: Subject, asked: list[str], preprocessing: Preprocessing) -> dict[str, Any]:
    """Figures of parity of every INT8 file; raises where one is not the trained network."""
    recipe = context.recipe
    batches = list(context.data.test())
    bundle = Bundle(subject.int8, subject.program, batches, _packed_channels(context))
    figures: dict[str, Any] = bundle.figures()
    tolerance = Tolerance(recipe["min_agreement"], recipe["max_mean_difference"])
    if subject.trained is not subject.int8:
        published, labels = logits_of(subject.trained, batches)
        figures["published_int8_top1"] = 100.0 * float((published.argmax(1) == labels).double().mean())
        found = compare(published, bundle.exact)
        tolerance.check("the program with calibrated ranges", found, "ranges that integer runtimes cannot express")
        figures |= {
            "published_agreement": found.agreement,
            "published_mean_difference_std": found.mean_difference,
        }
    for form in asked:
        figures |= bundle.check(form, tolerance, allow_float=recipe["allow_float"])
        if preprocessing.inside:
            bundle.check_pixels(form, preprocessing)
    figures["agreement"] = min(figures[f"{form}_agreement"] for form in asked)
    fp32, labels = logits_of(to_plain(subject.fp32), batches)
    figures["fp32_top1"] = 100.0 * float((fp32.argmax(1) == labels).double().mean())
    return figures


def _written(context: Context, subject: Subject, asked: list[str], preprocessing: Preprocessing) -> dict[str, Path]:
    """Write every file; return them by name."""
    folder, metadata = context.output, subject.metadata
    outputs = {}
    for form in asked:
        outputs[f"{form}_int8"] = folder / file_name(form, "int8")
        save_file(
            FORMS[form].write(subject.program, metadata, preprocessing, _packed_channels(context)),
            outputs[f"{form}_int8"],
        )
    plain, float_metadata = to_plain(subject.fp32, metadata), {**metadata, "quant": "off"}
    plain.config["metadata"] = float_metadata
    channels, *_ = shape = subject.program.input_shape
    if "onnx" in asked:
        outputs["onnx_fp32"] = folder / file_name("onnx", "fp32")
        export_float(subject.fp32, shape, outputs["onnx_fp32"], float_metadata)
    if "tflite" in asked:
        outputs["tflite_fp32"] = folder / file_name("tflite", "fp32")
        save_file(to_float_tflite(plain, channels, float_metadata), outputs["tflite_fp32"])
    outputs["plain_fp32"], *_ = save_plain(plain, folder / "subnet_fp32.json")
    outputs["program"] = folder / "program.safetensors"
    save_program(outputs["program"], subject.program, metadata)
    outputs["checkpoint"] = folder / "subnet_int8.pth"
    save_subnet(outputs["checkpoint"], subject.int8, subject.member, subject.spec, context.data.classes, "deploy")
    return outputs


def _costs(context: Context, outputs: dict[str, Path], asked: list[str]) -> dict[str, float]:
    """Sizes and interleaved latencies of the files; where the INT8 files' time goes is drawn."""
    names = [f"{form}_{precision}" for form in asked for precision in PRECISIONS]
    files = {name: outputs[name].read_bytes() for name in names}
    times = least_ms({name: runner(files[name], name.split("_")[0]) for name in names}, context.count("repeats"))
    figures = {f"{name}_file_kb": len(file) / 1e3 for name, file in files.items()}
    figures |= {f"{name}_latency_ms": ms for name, ms in times.items()}
    figures |= {f"{form}_int8_speedup": times[f"{form}_fp32"] / times[f"{form}_int8"] for form in asked}
    if "onnx" in asked:
        operators = profile_onnx(files["onnx_int8"], context.count("repeats"))
        outputs |= _profiled(context, "onnx", operators, "INT8 ONNX")
    if "tflite" in asked:
        operators, whole_ms = profile_tflite(files["tflite_int8"])
        figures |= {"tflite_operators_ms": sum(op.least_ms for op in operators), "tflite_operators_whole_ms": whole_ms}
        title = f"INT8 TFLite, whole {whole_ms:.3f} ms, operators one by one"
        outputs |= _profiled(context, "tflite", operators, title)
    return figures


def _profiled(context: Context, form: str, operators: Sequence[OperatorTime], title: str) -> dict[str, Path]:
    """Write and draw the times of a file's operators; return what was written."""
    table, drawing = (context.output / f"profile_{form}.{kind}" for kind in ("csv", "png"))
    rows = [(layer_of(op.name), op) for op in operators]
    write_csv(table, [{"stage": stage, **op._asdict()} for stage, op in rows])
    draw_operators(drawing, f"{machine_name()}\n{title}", [(stage, op.kind, op.least_ms) for stage, op in rows])
    return {f"{form}_profile": table, f"{form}_profile_picture": drawing}
