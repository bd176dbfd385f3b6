"""A microcontroller: what fits its memory, predicted from programs."""

from spaceevo.artifacts.values import Amount
from spaceevo.errors import ExportError
from spaceevo.quant.program import Program
from spaceevo.runtimes.tflm.memory import arena_bytes, flash_bytes


def check_memory(program: Program, arena_kb: Amount | None, flash_kb: Amount | None) -> dict[str, float]:
    """Predict what a program takes of a microcontroller's memory, in kB of 1000 bytes.

    Args:
        program: the integer program.
        arena_kb: memory that there is for tensors and all else that lives; None sets no limit.
        flash_kb: memory that there is for the file; None sets no limit.

    Returns:
        Figures `arena_kb` and `flash_kb`.

    Raises:
        ExportError: it takes more than there is.
    """
    found = {"arena_kb": arena_bytes(program) / 1e3, "flash_kb": flash_bytes(program) / 1e3}
    for name, limit_kb in (("arena_kb", arena_kb), ("flash_kb", flash_kb)):
        if limit_kb is not None and found[name] > limit_kb:
            raise ExportError(
                f"the network needs {found[name]:.1f} kB ({name.removesuffix('_kb')} of TensorFlow Lite Micro), "
                f"platform.{name} = {limit_kb:g}; take a smaller subnet, or set it to what the device has"
            )
    return found
