"""Offers ONNX Runtime."""

import json
import math
from collections import Counter
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from spaceevo.errors import ExportError
from spaceevo.quant.convert import WEIGHT_LIMIT
from spaceevo.runtimes.base import OperatorTime, Profile, Session, reads_file
from spaceevo.runtimes.machine import adds_exactly
from spaceevo.runtimes.onnx.files import OnnxFiles, largest_weight
from spaceevo.runtimes.preprocessing import INSIDE_NAME

MOST_VALUES = 3 * 2**26  # Of an image
INTEGER_OPS = frozenset({"QGemm", "QuantizeLinear", "DequantizeLinear", "Flatten", "Transpose", "Reshape"})
"""Operators that compute in integers, convert to or from them, or only move values; so do all `QLinear…`."""
WARM_UPS = 3


class OnnxSession(Session):
    """Runs an ONNX file on one thread of the CPU, with exact integer arithmetic.

    Args:
        file: content of the file.
        settings: fields of ONNX Runtime's `SessionOptions`.
    """

    def __init__(self, file: bytes, **settings: object) -> None:
        options = onnxruntime.SessionOptions()
        settings = {"intra_op_num_threads": 1, "inter_op_num_threads": 1, "log_severity_level": 3, **settings}
        for name, value in settings.items():
            setattr(options, name, value)
        if not adds_exactly(WEIGHT_LIMIT) and not adds_exactly(largest_weight(file)):
            # Kernels for uint8 × int8 would cut sums of two products off at 16 bits; this takes uint8 × uint8.
            options.add_session_config_entry("session.x64quantprecision", "1")
        # without its fallback, which would print
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(file, options, providers=providers, enable_fallback=0)

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
        (value,) = self.session.get_inputs()
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        if math.prod(shape) > MOST_VALUES:
            raise ExportError(f"the file takes images of {shape}; allowed: {MOST_VALUES} values; export it again")
        if value.type == "tensor(uint8)":
            return {value.name: rng.integers(0, 256, shape, np.uint8)}
        return {value.name: rng.standard_normal(shape, np.float32)}


class OnnxRuntime(OnnxFiles):
    """Executes ONNX files by ONNX Runtime."""

    name = "onnxruntime"
    package = "onnxruntime"
    module = "onnxruntime"
    other_ways = ("unoptimized",)

    @reads_file
    def load(self, file: bytes, way: str = "") -> OnnxSession:
        """Load a file; `unoptimized` executes every Q and DQ by itself, in float between them."""
        if way == "unoptimized":
            return OnnxSession(file, graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
        return OnnxSession(file)

    @reads_file
    def profile(self, file: bytes, repeats: int) -> Profile:
        """Time every operator within the file, by ONNX Runtime's own profiler."""
        with TemporaryDirectory() as folder:
            model = OnnxSession(file, enable_profiling=True, profile_file_prefix=f"{folder}/profile")
            for _ in range(WARM_UPS + repeats):
                model.invoke()
            events = json.loads(Path(model.session.end_profiling()).read_text(encoding="utf-8"))
        least: dict[str, OperatorTime] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                name = event["name"].removesuffix("_kernel_time")
                ms = min(event["dur"] / 1e3, least[name].least_ms if name in least else float("inf"))
                least[name] = OperatorTime(name, event["args"]["op_name"], ms)
        return Profile(list(least.values()))

    @reads_file
    def op_counts(self, file: bytes) -> dict[str, int]:
        """Count the operators by type, as they are fused on this machine."""
        return dict(Counter(node.op_type for node in self._executed(file)))

    @reads_file
    def float_ops(self, file: bytes) -> list[str]:
        """List the operators that compute in float, as `type name`."""
        return [f"{node.op_type} {node.name or node.output[0]}" for node in self._executed(file) if _is_float(node)]

    def prepare(self, file: bytes) -> bytes:
        """Rewrite a file with its operators fused as ONNX Runtime does it on this machine."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            OnnxSession(file, optimized_model_filepath=str(path))
            return path.read_bytes()

    def _executed(self, file: bytes) -> list[onnx.NodeProto]:
        return list(onnx.load_from_string(self.prepare(file)).graph.node)


def _is_float(node: onnx.NodeProto) -> bool:
    is_integer = node.op_type.startswith("QLinear") or node.op_type in INTEGER_OPS
    return not is_integer and not any(name.startswith(INSIDE_NAME) for name in node.input)
