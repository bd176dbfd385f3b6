"""A microcontroller under TensorFlow Lite Micro: what does not fit its memory is refused before it is written."""

from collections.abc import Mapping
from typing import Annotated, Literal

from spaceevo.artifacts.values import Name, Positive
from spaceevo.errors import ExportError
from spaceevo.latency.predictor import FixedLatency
from spaceevo.platforms.base import WHERE, log
from spaceevo.platforms.measuring import MeasuringPlatform
from spaceevo.quant.program import Program
from spaceevo.runtimes.tflm.memory import arena_bytes, flash_bytes


def check_memory(
    program: Program, arena_kb: float | None, flash_kb: float | None, texts: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Predict what a program takes of a microcontroller's memory, in kB of 1000 bytes.

    Args:
        program: the integer program.
        arena_kb: memory that there is for tensors and all else that lives; None sets no limit.
        flash_kb: memory that there is for the file; None sets no limit.
        texts: metadata that the file keeps.

    Returns:
        Figures `arena_kb` and `flash_kb`.

    Raises:
        ExportError: it takes more than there is.
    """
    found = {"arena_kb": arena_bytes(program) / 1e3, "flash_kb": flash_bytes(program, texts) / 1e3}
    limits = {"arena_kb": arena_kb, "flash_kb": flash_kb}
    lacks = [
        f"{found[name]:.1f} kB of {name.removesuffix('_kb')}, platform.{name} = {limit_kb:g}"
        for name, limit_kb in limits.items()
        if limit_kb is not None and found[name] > limit_kb
    ]
    if lacks:
        remedy = "take a smaller subnet, or set it to what the device has"
        raise ExportError(f"the network needs {'; '.join(lacks)}; {remedy}")
    return found


class Microcontroller(MeasuringPlatform):
    """Refuses networks that are too large for a device; settings are `MeasuringPlatform`'s and the memory's.

    Args:
        arena_kb: memory of the device for tensors and all else that lives, in kB of 1000 bytes; null sets no limit.
        flash_kb: memory of the device for the file, likewise.
    """

    corrects = False  # whole networks need not fit the memory, and latencies say little anyway

    def __init__(
        self,
        name: Name,
        superspace: Name,
        cache: Annotated[str, WHERE],
        arena_kb: Positive | None = None,
        flash_kb: Positive | None = None,
        table: Annotated[str | None, WHERE] = None,
        fixed_latency_ms: FixedLatency = None,
        unknown_blocks: Literal["auto", "measure", "fitted"] = "auto",
        packed_channels: Literal[1] = 1,
        runtime: Literal["tflite_micro"] = "tflite_micro",
    ) -> None:
        self.arena_kb = arena_kb
        self.flash_kb = flash_kb
        super().__init__(name, runtime, superspace, cache, table, fixed_latency_ms, unknown_blocks, packed_channels)
        log.warning(
            f"platform {name}: latencies are of TensorFlow Lite Micro's portable kernels on this machine, "
            "which say little of a microcontroller's; arena and flash are the device's"
        )

    def require_room(self, program: Program, texts: Mapping[str, str] | None = None) -> None:
        """Refuse a program that does not fit the memory, with an `ExportError`."""
        check_memory(program, self.arena_kb, self.flash_kb, texts)

    def compile(self, program: Program) -> bytes:
        """Write a program as a TFLite file; raises `ExportError` where it does not fit the memory."""
        self.require_room(program)
        return super().compile(program)
