"""Times models on another machine: sent there as text, with `runtimes/machine.py` and `runtimes/timing.py` before it.

It needs Python, NumPy and the runtime's package, and imports nothing of this project: what it takes from the two files
is handed to `serve`. It reads frames from standard input and answers each by a line of JSON behind `MARK`.
"""

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

MARK = "spaceevo "  # Begins a line that is an answer; a login shell may print others
LEVEL = 3  # Of ONNX Runtime's log: errors


class Model(Protocol):
    """Can be timed."""

    def invoke(self) -> object:
        """Compute once."""
        ...


class Here(NamedTuple):
    """Holds what the two other files define: how this machine is described, and how models are timed."""

    machine_name: Callable[[], str]
    instruction_sets: Callable[[], "list[str]"]
    adds_exactly: Callable[[int], bool]
    time_models: Callable[..., Mapping[str, "tuple[float, float]"]]


class OnnxModel:
    """Runs an ONNX file as `runtimes.onnx` does: one thread, exact integers, the same random values."""

    def __init__(self, file: bytes, exact: bool) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = LEVEL
        if exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        (value,) = self.session.get_inputs()
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        is_integer = value.type == "tensor(uint8)"
        values = rng.integers(0, 256, shape, np.uint8) if is_integer else rng.standard_normal(shape, np.float32)
        self.feed = {value.name: values}

    def invoke(self) -> object:
        """Compute once."""
        return self.session.run(None, self.feed)


class LiteRtModel:
    """Runs a TFLite file as `runtimes.litert` does: one thread, the same random values."""

    def __init__(self, file: bytes, exact: bool) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_content=file, num_threads=1)
        self.interpreter.allocate_tensors()
        rng = np.random.default_rng(0)
        for value in self.interpreter.get_input_details():
            self.interpreter.set_tensor(value["index"], rng.standard_normal(value["shape"]).astype(value["dtype"]))

    def invoke(self) -> object:
        """Compute once."""
        return self.interpreter.invoke()


MODELS: "Mapping[str, Callable[[bytes, bool], Model]]" = {"onnxruntime": OnnxModel, "litert": LiteRtModel}
MODULES = {"onnxruntime": "onnxruntime", "litert": "ai_edge_litert"}
"""What is imported of each runtime."""


def describe(asked: Mapping[str, Any], here: Here) -> "dict[str, object]":
    """Pin this process to a core and say where it runs; or what is missing, as `error` and `found`."""
    from importlib import import_module
    from importlib.metadata import version

    allowed = sorted(os.sched_getaffinity(0))
    core = allowed[-1] if asked["core"] is None else asked["core"]
    if core not in allowed:
        return {"error": "core", "found": ", ".join(map(str, allowed))}
    os.sched_setaffinity(0, {core})
    try:
        import_module(MODULES[asked["runtime"]])
    except ImportError as error:
        return {"error": "runtime", "found": str(error)}
    return {
        "node": platform.node(),
        "machine": here.machine_name(),
        "instructions": " ".join(here.instruction_sets()),
        "version": version(asked["package"]),
        "core": core,
    }


def serve(here: Here) -> None:
    """Answer the first frame by a description, and each other, which brings models, by their timings."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints is no answer

    def answer(value: object) -> None:
        answers.write(MARK + json.dumps(value) + "\n")
        answers.flush()

    frames = sys.stdin.buffer
    asked = json.loads(frames.readline())
    described = describe(asked, here)
    answer(described)
    load = MODELS[asked["runtime"]]
    while "error" not in described and (line := frames.readline()):
        frame = json.loads(line)
        models: dict[str, tuple[bytes, bool]] = {}
        for name, size, largest_weight in frame["models"]:
            file = frames.read(size)
            if len(file) != size:
                return  # the connection is gone
            models[name] = file, not here.adds_exactly(largest_weight)
        try:
            found = here.time_models(models, lambda model: load(*model), frame["repeats"])
            answer({"timings": {name: list(timing) for name, timing in found.items()}})
        except Exception as error:
            answer({"error": "model", "found": " ".join(repr(error).split())[:300]})
