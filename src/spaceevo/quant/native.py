"""The compiled CPU form of LSQ+: `lsq_cpu.c`, built by the machine's C compiler and kept in the cache folder."""

import ctypes
import logging
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from spaceevo.artifacts import atomic_path, cache_folder, fingerprint

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("lsq_cpu.c")
# No fast-math and no contraction: the values are to be those of the plain form. OpenMP's symbols are left open at
# linking, so that the library runs on torch's own thread pool.
COMPILE = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
BLOCK = 4096  # Elements per pair of gradient sums; as in the C file
SWITCH = "SPACEEVO_NATIVE"  # Environment variable; 0 keeps to the plain form


class CGrid(ctypes.Structure):
    """Holds the numbers of a grid, as the C functions take them."""

    _fields_ = [(name, ctypes.c_float) for name in ("scale", "offset", "zero", "low", "high")]


class Kernels(NamedTuple):
    """Calls forward and backward of the compiled library."""

    library: ctypes.CDLL

    def forward(self, x: Tensor, grid: CGrid, integer: bool) -> Tensor:
        """Fake-quantise a dense tensor of float32 or bfloat16."""
        y = torch.empty_like(x)
        self.library.lsq_forward(x.data_ptr(), y.data_ptr(), x.numel(), grid, integer, x.dtype is torch.bfloat16)
        return y

    def backward(self, x: Tensor, grad: Tensor, grid: CGrid, integer: bool) -> tuple[Tensor, Tensor]:
        """Compute the gradient of `x`, and the sums `(2,)` for scale and offset in float64; `grad` lies as `x` does."""
        grad_x = torch.empty_like(x)
        sums = torch.empty(-(-x.numel() // BLOCK), 2, dtype=torch.double)
        pointers = (tensor.data_ptr() for tensor in (x, grad, grad_x, sums))
        self.library.lsq_backward(*pointers, x.numel(), grid, integer, x.dtype is torch.bfloat16)
        return grad_x, sums.sum(0)


@cache
def kernels() -> Kernels | None:
    """Load the compiled library; None where it is switched off, or there is no C compiler that can make it."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        library = ctypes.CDLL(str(_build()))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("LSQ+ runs in its plain form, several times slower: no compiled library (%s)", error)
        return None
    pointer, size, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.lsq_forward.argtypes = [pointer, pointer, size, CGrid, flag, flag]
    library.lsq_backward.argtypes = [pointer, pointer, pointer, pointer, size, CGrid, flag, flag]
    library.lsq_forward.restype = library.lsq_backward.restype = None
    return Kernels(library)


def _build() -> Path:
    """The library of this source, these flags and this processor; compiled where it is not there yet."""
    processor = platform.machine() + platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        processor += next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    compiler = os.environ.get("CC", "cc")
    made_of = fingerprint([SOURCE.read_text(encoding="utf-8"), COMPILE, processor, compiler, torch.__version__])
    path = cache_folder("native") / f"lsq_cpu_{made_of}.so"
    if not path.exists():
        with atomic_path(path) as temporary, TemporaryDirectory() as folder:
            compiled = f"{folder}/lsq_cpu.o"
            for command in ([*COMPILE, "-c", str(SOURCE), "-o", compiled], ["-shared", compiled, "-o", str(temporary)]):
                subprocess.run([compiler, *command], check=True, capture_output=True, timeout=60)
    return path
