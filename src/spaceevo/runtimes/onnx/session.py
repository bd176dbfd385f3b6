"""Runs ONNX files in ONNX Runtime."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from spaceevo.runtimes.base import Session
from spaceevo.runtimes.machine import has_vnni


class OnnxSession(Session):
    """Runs an ONNX file on one thread of the CPU, with exact integer arithmetic.

    Args:
        file: content of the file.
        optimize: whether operators may be fused into integer ones.
        optimized_file: file to leave the fused graph in, if any.
        profile_prefix: folder and begin of the name of a profile to leave, if any.
    """

    def __init__(
        self,
        file: bytes,
        *,
        optimize: bool = True,
        optimized_file: Path | None = None,
        profile_prefix: Path | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if optimized_file is not None:
            options.optimized_model_filepath = str(optimized_file)
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_prefix)
        if not has_vnni():
            # x86 kernels for uint8 × int8 then cut sums of two products off at 16 bits; this takes uint8 × uint8.
            options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Compute every output of the file for images `(N, C, H, W)`."""
        found = self.session.run(None, {self.session.get_inputs()[0].name: images.numpy()})
        return [torch.from_numpy(value) for value in found]

    def invoke(self) -> object:
        """Compute once on random values, batch 1."""
        return self.session.run(None, self._random)

    @cached_property
    def _random(self) -> dict[str, NDArray[np.generic]]:
        rng = np.random.default_rng(0)
        found: dict[str, NDArray[np.generic]] = {}
        for value in self.session.get_inputs():
            shape = [size if isinstance(size, int) else 1 for size in value.shape]
            is_integer = value.type == "tensor(uint8)"
            found[value.name] = (
                rng.integers(0, 256, shape, np.uint8) if is_integer else rng.standard_normal(shape, np.float32)
            )
        return found
