"""Looks at what ONNX Runtime makes of a file: the operators that it executes, and their time."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from spaceevo.runtimes.base import OperatorTime
from spaceevo.runtimes.onnx.session import OnnxSession
from spaceevo.runtimes.preprocessing import INSIDE_NAME

INTEGER_OPS = frozenset({"QGemm", "QuantizeLinear", "DequantizeLinear", "Flatten", "Transpose", "Reshape"})
"""Operators that compute in integers, convert to or from them, or only move values; so do all `QLinear…`."""
WARM_UPS = 3


def optimized(file: bytes) -> bytes:
    """Write a file's operators as ONNX Runtime fuses them on this machine."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        OnnxSession(file, optimized_file=path)
        return path.read_bytes()


def executed_nodes(file: bytes) -> list[onnx.NodeProto]:
    """List the operators that ONNX Runtime executes for a file on this machine."""
    return list(onnx.load_from_string(optimized(file)).graph.node)


def is_float(node: onnx.NodeProto) -> bool:
    """Tell whether an executed operator computes in float, the preprocessing apart."""
    is_integer = node.op_type.startswith("QLinear") or node.op_type in INTEGER_OPS
    return not is_integer and not any(name.startswith(INSIDE_NAME) for name in node.input)


def operator_times(file: bytes, repeats: int) -> list[OperatorTime]:
    """Time every operator within the file, by ONNX Runtime's own profiler, in order of execution."""
    with TemporaryDirectory() as folder:
        model = OnnxSession(file, profile_prefix=Path(folder) / "profile")
        for _ in range(WARM_UPS + repeats):
            model.invoke()
        events = json.loads(Path(model.session.end_profiling()).read_text(encoding="utf-8"))
    least: dict[str, OperatorTime] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            ms = min(event["dur"] / 1e3, least[name].least_ms if name in least else float("inf"))
            least[name] = OperatorTime(name, event["args"]["op_name"], ms)
    return list(least.values())
