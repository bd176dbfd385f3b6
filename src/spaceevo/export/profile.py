"""What a file costs to run: time of every operator, and whole files against each other in one interleaved run."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import onnxruntime

from spaceevo.export.flatbuffer import FlatbufferGraph, operator_files
from spaceevo.export.parity import tflite_interpreter
from spaceevo.latency.measure import Model, has_vnni, session_of, time_models
from spaceevo.latency.tflite import LiteRtRunner

WARM_UPS = 3


class OperatorTime(NamedTuple):
    """Time of one operator of a file.

    Attributes:
        name: its name.
        kind: its type.
        least_ms: the least of its runs; medians mean little on a busy machine.
    """

    name: str
    kind: str
    least_ms: float


def profile_onnx(model: Model, runs: int = 30) -> list[OperatorTime]:
    """Time every operator that ONNX Runtime executes: one thread, batch 1, in order of execution."""
    source = model if isinstance(model, bytes) else str(model)
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling, options.log_severity_level = True, 3
        options.profile_file_prefix = str(Path(folder) / "profile")
        if not has_vnni():
            options.add_session_config_entry("session.x64quantprecision", "1")
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        feed = _onnx_feed(session)
        for _ in range(WARM_UPS + runs):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    least: dict[str, OperatorTime] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            ms = min(event["dur"] / 1e3, least[name].least_ms if name in least else float("inf"))
            least[name] = OperatorTime(name, event["args"]["op_name"], ms)
    return list(least.values())


def profile_tflite(model: Model, repeats: int = 10) -> tuple[list[OperatorTime], float]:
    """Time every operator of a TFLite file as a file of its own: one thread, batch 1, in order of execution.

    LiteRT has no profiler in Python. What running any file takes is taken off each; still, an operator alone is not the
    operator in its place, where the runtime plans memory for all and merges some. So the whole is timed beside
    them, to be compared with their sum, which lay 9 % below to 42 % above it where it was tried.

    Returns:
        The operators, and the latency of the whole in ms.

    Raises:
        MissingExtraError: `ai-edge-litert` is not installed.
    """
    content = model if isinstance(model, bytes) else model.read_bytes()
    operators = operator_files(content)
    files = {"whole": content, "empty": _empty_tflite()} | {str(i): op.file for i, op in enumerate(operators)}
    timings = time_models(files, repeats, load=LiteRtRunner, group=len(files))
    empty_ms = timings["empty"].latency_ms
    alone_ms = [max(0.0, timings[str(index)].latency_ms - empty_ms) for index in range(len(operators))]
    rows = [OperatorTime(op.name, op.kind, ms) for op, ms in zip(operators, alone_ms, strict=True)]
    return rows, timings["whole"].latency_ms


def _empty_tflite() -> bytes:
    """A file that returns what it is fed."""
    graph = FlatbufferGraph()
    index = graph.tensor("x", (1,), "FLOAT32")
    return graph.pack([index], [index], "empty", {})


def layer_of(operator: str) -> str:
    """Stage of the network an operator's name tells, e.g. `stage1` of `stage1.0.expand.q`; `other` if none."""
    match = re.match(r"[a-z]+(_[a-z]+)?\d?(?=\.\d+\.)", operator)
    return match[0] if match else "other"


def _onnx_feed(session: onnxruntime.InferenceSession) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    (value,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in value.shape]
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    return {value.name: pixels.astype(np.uint8 if "uint8" in value.type else np.float32)}


def runner(model: Model, form: str) -> Callable[[], object]:
    """A call that runs a file once on one thread, batch 1.

    Args:
        model: the file or its bytes.
        form: `onnx` or `tflite`.

    Raises:
        MissingExtraError: `form` is `tflite` and `ai-edge-litert` is not installed.
    """
    if form == "onnx":
        session = session_of(model)
        feed = _onnx_feed(session)
        return lambda: session.run(None, feed)
    interpreter = tflite_interpreter(model)
    (source,) = interpreter.get_input_details()
    pixels = np.random.default_rng(0).integers(0, 256, source["shape"]).astype(source["dtype"])
    interpreter.set_tensor(source["index"], pixels)
    run: Callable[[], object] = interpreter.invoke
    return run


def least_ms(runners: Mapping[str, Callable[[], object]], repeats: int = 50, seed: int = 0) -> dict[str, float]:
    """Least CPU time of this thread, in ms, of each of several calls, interleaved in random order."""
    rng, least_ns = Random(seed), dict.fromkeys(runners, float("inf"))
    for run in runners.values():
        for _ in range(WARM_UPS):
            run()
    for _ in range(repeats):
        for name in rng.sample(list(runners), len(runners)):
            started = time.thread_time_ns()
            runners[name]()
            least_ns[name] = min(least_ns[name], time.thread_time_ns() - started)
    return {name: value / 1e6 for name, value in least_ns.items()}
