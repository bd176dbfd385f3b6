"""This machine's ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from spaceevo.export.float_onnx import export_float
from spaceevo.export.onnx import to_onnx
from spaceevo.latency.blocks import random_block_program
from spaceevo.latency.measure import Model, Timing, provenance, session_of, time_models
from spaceevo.latency.onnx_block import open_end, open_start
from spaceevo.nn.supernet import Network
from spaceevo.quant.program import Program
from spaceevo.space.placement import PlacedBlock
from spaceevo.stages.platforms.measuring import MeasuringPlatform


class OrtCpu(MeasuringPlatform):
    """ONNX Runtime on this machine's processor: INT8, one thread, batch 1."""

    suffix = ".onnx"

    def describe(self, name: str) -> dict[str, str]:
        """Processor, ONNX Runtime, clock."""
        return provenance(name, "onnxruntime")

    def compile(self, program: Program) -> bytes:
        """The program as ONNX."""
        return bytes(to_onnx(program).SerializeToString())

    def compile_float(self, network: Network, shape: tuple[int, int, int]) -> bytes:
        """The network as ONNX."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "fp32.onnx"
            export_float(network, shape, path)
            return path.read_bytes()

    def prepare(self, model: bytes) -> bytes:
        """The model as ONNX Runtime optimised it."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            session_of(model, optimized_file=path)
            return path.read_bytes()

    def compile_block(self, block: PlacedBlock) -> bytes:
        """A block with integer ends; the stem, with which a network begins, takes real images."""
        model: onnx.ModelProto = to_onnx(random_block_program(*block))
        if block[0].type != "FirstConv":
            open_start(model)
        open_end(model)
        return bytes(model.SerializeToString())

    def time_models(
        self, models: Mapping[str, Model], repeats: int, on_progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Timing]:
        """Time ONNX models side by side."""
        return time_models(models, repeats, on_progress=on_progress)
