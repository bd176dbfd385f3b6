"""Describes this machine, as far as it decides how fast integers are multiplied, and where measurements come from."""

import platform
from datetime import date
from functools import cache
from pathlib import Path

INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
"""Instruction sets that decide how fast integers are multiplied."""


@cache
def _cpuinfo() -> dict[str, str]:
    file = Path("/proc/cpuinfo")
    first, _, _ = (file.read_text(encoding="utf-8") if file.is_file() else "").partition("\n\n")  # the first processor
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def instruction_sets() -> list[str]:
    """List which of `INSTRUCTIONS` this processor says it has."""
    flags = (_cpuinfo().get("flags") or _cpuinfo().get("Features") or "").split()
    return [name for name in INSTRUCTIONS if name in flags]


def has_vnni() -> bool:
    """Tell whether the processor is known to have VNNI: exact and fast products of uint8 and int8."""
    return any("vnni" in flag for flag in _cpuinfo().get("flags", "").split())


def adds_exactly(weight: int) -> bool:
    """Tell whether fast kernels add products of uint8 and int8 weights up to this one, without sign, exactly.

    Those of x86 processors without VNNI add two products in 16 bits, and cut the sum off there.
    """
    return has_vnni() or not is_x86() or 2 * 255 * weight < 2**15


def is_x86() -> bool:
    """Tell whether the processor is of the x86 family."""
    return platform.machine().lower() in ("x86_64", "amd64", "i686")


def machine_name() -> str:
    """Name this machine's processor and what multiplies its integers, e.g. `AMD EPYC 7763, without VNNI`."""
    name = _cpuinfo().get("model name") or platform.processor() or platform.machine()
    if "flags" not in _cpuinfo():
        return name
    # Runtimes multiply in AMX tiles where there are some, several times faster: another machine.
    amx = "and AMX" if "amx_int8" in instruction_sets() else "but without AMX"
    return f"{name}, with VNNI {amx}" if has_vnni() else f"{name}, without VNNI"


def provenance(machine: str, instructions: str, runtime: str, version: str, clock: str) -> dict[str, str]:
    """Say where and how measurements of today are made: what a `LatencyTable` keeps beside them."""
    return {
        "machine": machine,
        "instructions": instructions or "unknown",
        "runtime": runtime,
        "version": version,
        "threads": "1",
        "clock": clock,
        "date": date.today().isoformat(),
    }
