"""Lists the runtimes there are. A new one is a file of its own and an entry here."""

from collections.abc import Sequence

from spaceevo.errors import ConfigError, choices
from spaceevo.runtimes.base import Runtime
from spaceevo.runtimes.litert.runtime import LiteRt
from spaceevo.runtimes.onnx.runtime import OnnxRuntime
from spaceevo.runtimes.openvino import OpenVino
from spaceevo.runtimes.tflm.runtime import TfliteMicro

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime for runtime in (OnnxRuntime(), LiteRt(), OpenVino(), TfliteMicro())
}
"""All runtimes by name; the first of a format writes its files."""


def runtime_named(name: str) -> Runtime:
    """Look a runtime up by its name; raises `ConfigError` where there is none of that name."""
    if name not in RUNTIMES:
        raise ConfigError(f"platform.runtime = {name}; allowed: {choices(RUNTIMES)}")
    return RUNTIMES[name]


def runtime_for(format: str) -> Runtime:
    """Look up the runtime that writes files of a format, which is one of `formats()`, and is the first to run them."""
    return next(runtime for runtime in RUNTIMES.values() if runtime.format == format)


def formats() -> list[str]:
    """List the file formats that can be written."""
    return list(dict.fromkeys(runtime.format for runtime in RUNTIMES.values()))


def other_runtime(name: str | None, formats: Sequence[str]) -> Runtime | None:
    """Look up a platform's runtime where it executes files of these formats, but is not the one that writes them."""
    if name is None:
        return None
    runtime = runtime_named(name)
    return runtime if runtime.format in formats and runtime is not runtime_for(runtime.format) else None
