"""Runs files on ARM processors that this machine emulates, in what `fetch.py` fetched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from spaceevo.artifacts.files import cache_folder

FOLDER = Path(os.environ.get("SPACEEVO_ARM") or cache_folder("arm"))
PYTHON = "3.13"  # Of Debian's release that `fetch.py` takes
WHEELS = ("onnxruntime", "ai-edge-litert")
CPUS = ("cortex-a53", "neoverse-n1", "max")
"""Without dot products of bytes (ARMv8.0), with them (8.2), and with all that the emulator knows (i8mm, SVE, …)."""


def missing() -> str:
    """Tell in one line why nothing can be run here; empty where it can."""
    how = "python -m experiments.arm.fetch"
    if not (FOLDER / "root" / "site").is_dir():
        return f"nothing that emulates ARM is in {FOLDER} ({how} fetches it; SPACEEVO_ARM names another folder)"
    try:
        others = [f"{it} {version(it)}" for it in WHEELS if not any((FOLDER / "root/site").glob(_told(it)))]
    except PackageNotFoundError as error:
        return f"{error.name} is not installed"
    return f"{FOLDER} has another version than {', '.join(others)} ({how} fetches it)" if others else ""


def _told(wheel: str) -> str:
    return f"{wheel.replace('-', '_')}-{version(wheel)}.dist-info"


def outputs(cpu: str, files: Mapping[str, tuple[bytes, Tensor]]) -> dict[str, list[Tensor]]:
    """Compute every output of files, by name.

    Args:
        cpu: model of the processor, as qemu names it.
        files: `NAME.onnx` or `NAME.tflite` → content and images `(N, C, H, W)`.
    """
    root = FOLDER / "root"
    program = Path(__file__).with_name("emulated.py")
    # numpy's BLAS would choose kernels by what it reads of the real machine
    own = {"OPENBLAS_CORETYPE": "ARMV8", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(root / "site")}
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file, (content, images) in files.items():
            (folder / file).write_bytes(content)
            np.save((folder / file).with_suffix(".npy"), images.numpy())
        command = [FOLDER / "qemu-aarch64", "-cpu", cpu, "-L", root, root / f"usr/bin/python{PYTHON}", "-S", program]
        subprocess.run([*map(str, command), name], check=True, env=own, capture_output=True)
        return {file: _read(folder / f"{file}.npz") for file in files}


def _read(path: Path) -> list[Tensor]:
    with np.load(path) as found:
        return [torch.from_numpy(found[name]) for name in found.files]
