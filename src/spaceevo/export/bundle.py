"""Writes the files that an export leaves: INT8 and fp32 in every format asked for, plain PyTorch, and the program."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from spaceevo.artifacts import write_bytes
from spaceevo.errors import ExportError
from spaceevo.nn.supernet import Network
from spaceevo.quant.program import Program
from spaceevo.quant.program_file import save_program
from spaceevo.runtimes.base import FileOptions, Shape
from spaceevo.runtimes.plain import save_plain, to_plain
from spaceevo.runtimes.registry import runtime_for

PRECISIONS = ("int8", "fp32")


def file_name(format: str, precision: str) -> str:
    """Name an exported file, e.g. `subnet_int8.onnx`."""
    return f"subnet_{precision}.{format}"


def save_bundle(
    folder: Path,
    formats: Sequence[str],
    program: Program | None,
    fp32: Network,
    shape: Shape,
    metadata: Mapping[str, str],
    options: FileOptions,
) -> dict[str, Path]:
    """Write a program, if there is one, and the fp32 network in every format; return the files, e.g. `onnx_int8`.

    `metadata` is what the INT8 files say of themselves; in the fp32 ones, `quant` is `off`.

    Raises:
        ExportError: a network cannot be written, or the folder.
    """
    float_metadata = {**metadata, "quant": "off"}
    outputs: dict[str, Path] = {}
    for format in formats:
        runtime = runtime_for(format)
        files = {} if program is None else {"int8": runtime.write(program, metadata, options)}
        files["fp32"] = runtime.write_float(fp32, shape, float_metadata)
        for precision, content in files.items():
            path = outputs[f"{format}_{precision}"] = folder / file_name(format, precision)
            try:
                write_bytes(path, content)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                remedy = "set paths.output to a folder you may write to"
                raise ExportError(f"cannot write {path} ({reason}); {remedy}") from error
    plain = save_plain(to_plain(fp32, float_metadata), folder / "subnet_fp32.json")
    outputs |= zip(("plain_fp32", "plain_fp32_weights", "plain_fp32_reader"), plain, strict=True)
    if program is not None:
        outputs["program"] = folder / "program.safetensors"
        save_program(outputs["program"], program, metadata)
    return outputs
