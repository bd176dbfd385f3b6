"""Writes the files that an export leaves: INT8 and fp32 in every format asked for, plain PyTorch, and the program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spaceevo.artifacts import write_bytes
from spaceevo.errors import ExportError
from spaceevo.nn.supernet import Network
from spaceevo.quant.program import Program
from spaceevo.quant.program_file import save_program
from spaceevo.runtimes.base import FileOptions
from spaceevo.runtimes.plain import save_plain, to_plain
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.runtimes.registry import runtime_for

PRECISIONS = ("int8", "fp32")


def file_name(format: str, precision: str) -> str:
    """Name an exported file, e.g. `subnet_int8.onnx`."""
    return f"subnet_{precision}.{format}"


@dataclass(frozen=True)
class Bundle:
    """Holds what is written as files: a program, the network's fp32 twin, and how INT8 files are written.

    `metadata` is what the INT8 files say of themselves; in the fp32 ones, `quant` is `off`.
    """

    program: Program
    fp32: Network
    metadata: Mapping[str, str]
    preprocessing: Preprocessing
    packed_channels: int | None = None

    def save(self, folder: Path, formats: Sequence[str]) -> dict[str, Path]:
        """Write every file; return them by name, e.g. `onnx_int8`.

        Raises:
            ExportError: a network cannot be written, or the folder.
        """
        options = FileOptions(self.preprocessing, self.packed_channels)
        float_metadata = {**self.metadata, "quant": "off"}
        outputs: dict[str, Path] = {}
        for format in formats:
            runtime = runtime_for(format)
            files = {
                "int8": runtime.write(self.program, self.metadata, options),
                "fp32": runtime.write_float(self.fp32, self.program.input_shape, float_metadata),
            }
            for precision, content in files.items():
                path = folder / file_name(format, precision)
                outputs[f"{format}_{precision}"] = path
                try:
                    write_bytes(path, content)
                except OSError as error:
                    reason = error.strerror or type(error).__name__
                    remedy = "set paths.output to a folder you may write to"
                    raise ExportError(f"cannot write {path} ({reason}); {remedy}") from error
        outputs["plain_fp32"], *_ = save_plain(to_plain(self.fp32, float_metadata), folder / "subnet_fp32.json")
        outputs["program"] = folder / "program.safetensors"
        save_program(outputs["program"], self.program, self.metadata)
        return outputs
