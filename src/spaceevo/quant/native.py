"""The compiled CPU form of LSQ+: `lsq_cpu.c`, built by the machine's C compiler and kept in the cache folder."""

import ctypes
import hashlib
import logging
import os
import platform
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from spaceevo.artifacts import cache_folder, fingerprint, write_bytes

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
        with _private_folder() as folder:
            library = ctypes.CDLL(str(_library(folder)))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("LSQ+ runs in its plain form, several times slower: no compiled library (%s)", error)
        return None
    pointer, size, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.lsq_forward.argtypes = [pointer, pointer, size, CGrid, flag, flag]
    library.lsq_backward.argtypes = [pointer, pointer, pointer, pointer, size, CGrid, flag, flag]
    library.lsq_forward.restype = library.lsq_backward.restype = None
    return Kernels(library)


@contextmanager
def _private_folder() -> Iterator[Path]:
    """The folder of compiled code, which nobody else may write to; one for this process alone where it cannot be."""
    folder = cache_folder("native")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        if found.st_mode & 0o077:
            folder.chmod(0o700)
        yield folder
        return
    log.warning("%s is not a folder of yours: LSQ+ is compiled anew, for this process", folder)
    with TemporaryDirectory() as temporary:
        yield Path(temporary)


def _library(folder: Path) -> Path:
    """The library of this source, these flags and this processor, in `folder`; compiled where it is not there whole.

    Its name ends in a hash of its content, without which it is not loaded.
    """
    name = f"lsq_cpu_{_made_of()}"
    for path in folder.glob(f"{name}.*.so"):
        found = path.lstat()
        if (
            stat.S_ISREG(found.st_mode)
            and found.st_uid == os.geteuid()
            and path.name == _named(name, path.read_bytes())
        ):
            return path
        log.warning("%s is damaged, or not yours: it is compiled anew", path)
        path.unlink()
    content = _compiled()
    path = folder / _named(name, content)
    write_bytes(path, content)
    return path


def _named(name: str, content: bytes) -> str:
    return f"{name}.{hashlib.sha256(content).hexdigest()[:32]}.so"


def _made_of() -> str:
    """A hash of all that decides the library."""
    processor = platform.machine() + platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        processor += next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return fingerprint([SOURCE.read_text(encoding="utf-8"), COMPILE, processor, _compiler(), torch.__version__])


def _compiler() -> str:
    return os.environ.get("CC", "cc")


def _compiled() -> bytes:
    with TemporaryDirectory() as folder:
        made, library = f"{folder}/lsq_cpu.o", Path(folder) / "lsq_cpu.so"
        for command in ([*COMPILE, "-c", str(SOURCE), "-o", made], ["-shared", made, "-o", str(library)]):
            subprocess.run([_compiler(), *command], check=True, capture_output=True, timeout=60)
        return library.read_bytes()
