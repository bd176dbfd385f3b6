"""Offers OpenVINO, which executes the ONNX files of ONNX Runtime as they are."""

import io
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spaceevo.quant.convert import WEIGHT_LIMIT
from spaceevo.runtimes.base import OperatorTime, Profile, Session, reads_file
from spaceevo.runtimes.machine import adds_exactly
from spaceevo.runtimes.onnx.files import OnnxFiles

if TYPE_CHECKING:
    from openvino import CompiledModel, Model

SETTINGS = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # the calling thread computes, wherever it runs
    "INFERENCE_PRECISION_HINT": "f32",  # of what stays in float: without, in bf16 where the processor has that
}
PREPARED = b"RR_UPCVO"  # How models begin that OpenVINO itself has written
HEAVY = frozenset({"Convolution", "FullyConnected", "MatMul", "Reduce", "Pooling"})
"""Operators that can compute in integers. All others, on single elements, compute in float between integers."""
WARM_UPS = 3
VALUE_TYPES = {"f32": np.float32, "u8": np.uint8}


class OpenVinoSession(Session):
    """Runs an ONNX file, or one that `OpenVino.prepare` made of it, on one thread of the CPU.

    What is timed is the model with its batch fixed to 1, as it is to be deployed: left open, it takes up to twice as
    long.
    """

    def __init__(self, file: bytes, **settings: str) -> None:
        from openvino import Core

        self.core = Core()
        self.settings = {**SETTINGS, **settings}
        self.file = file
        self.model: Model | None = None if file.startswith(PREPARED) else self.core.read_model(file)

    @cached_property
    def single(self) -> "CompiledModel":
        """The model for a single image."""
        if self.model is None:
            return self.core.import_model(io.BytesIO(self.file), "CPU", self.settings)
        single = self.model.clone()
        single.reshape([1 if size.is_dynamic else size.get_length() for size in single.input().partial_shape])
        return self.core.compile_model(single, "CPU", self.settings)

    @cached_property
    def whole(self) -> "CompiledModel":
        """The model for any batch; prepared ones take single images alone."""
        return self.single if self.model is None else self.core.compile_model(self.model, "CPU", self.settings)

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Compute every output of the file for images `(N, C, H, W)`."""
        batches = [images] if self.whole.input().partial_shape.is_dynamic else torch.split(images, 1)
        request = self.whole.create_infer_request()
        found = [[torch.from_numpy(x.copy()) for x in request.infer(batch.numpy()).values()] for batch in batches]
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    @cached_property
    def request(self) -> "_Request":
        """Holds a request, and the random values that it reads."""
        return _Request(self.single)

    def invoke(self) -> object:
        """Compute once on random values, batch 1."""
        return self.request.infer()


class _Request:
    """Computes again and again on the same random values."""

    def __init__(self, model: "CompiledModel") -> None:
        rng, source = np.random.default_rng(0), model.input()
        kind = VALUE_TYPES[source.element_type.to_string()]
        # Truncated to the input's type; what the values are does not matter.
        self.values = (100 * rng.random(tuple(source.shape))).astype(kind)
        self.request = model.create_infer_request()
        self.request.infer(self.values)
        self.infer = self.request.infer


class Node(NamedTuple):
    """Describes an operator as OpenVINO executes it."""

    kind: str
    name: str  # of the ONNX node that it was first
    precision: str  # in which it computes, e.g. `u8`


class OpenVino(OnnxFiles):
    """Executes ONNX files by OpenVINO, on the CPU."""

    name = "openvino"
    package = "openvino"
    module = "openvino"
    extra = "openvino"
    channels_last = False

    def caution(self, largest_weight: int = WEIGHT_LIMIT) -> str:
        """Tell that processors without VNNI cut sums of two products off at 16 bits, which no setting changes."""
        if adds_exactly(largest_weight):
            return ""
        why = "OpenVINO cuts sums of products off at 16 bits on x86 processors without VNNI, as this one is"
        return f"{why}; networks trained under quant=reduced_range stay below"

    @reads_file
    def load(self, file: bytes, way: str = "") -> OpenVinoSession:
        """Load a file; there is but one way."""
        self.require()
        return OpenVinoSession(file)

    @reads_file
    def profile(self, file: bytes, repeats: int) -> Profile:
        """Time every operator within the file, by OpenVINO's own counters."""
        session = OpenVinoSession(file, PERF_COUNT="YES")
        least: dict[str, OperatorTime] = {}
        for _ in range(WARM_UPS + repeats):
            session.invoke()
            for part in session.request.request.profiling_info:
                if part.status.name == "EXECUTED":
                    ms = min(part.real_time.total_seconds() * 1e3, getattr(least.get(part.node_name), "least_ms", 1e9))
                    least[part.node_name] = OperatorTime(part.node_name, part.node_type, ms)
        return Profile(list(least.values()))

    @reads_file
    def op_counts(self, file: bytes) -> dict[str, int]:
        """Count the operators by type, as they are fused on this machine."""
        return dict(Counter(node.kind for node in _executed(file)))

    @reads_file
    def float_ops(self, file: bytes) -> list[str]:
        """List the convolutions, products and means that compute in float, as `type name`.

        OpenVINO computes on single elements in float registers, from integers to integers.
        """
        return [f"{x.kind} {x.name}" for x in _executed(file) if x.kind in HEAVY and x.precision not in ("u8", "i8")]

    def prepare(self, file: bytes) -> bytes:
        """Rewrite a file as OpenVINO has compiled it on this machine, for a single image."""
        found: bytes = OpenVinoSession(file).single.export_model().getvalue()
        return found


def _executed(file: bytes) -> Iterator[Node]:
    """List what is executed, constants, ends and changes of layout left out."""
    for op in OpenVinoSession(file).single.get_runtime_model().get_ordered_ops():
        told = {key: value.astype(str) for key, value in op.get_rt_info().items()}
        if told["layerType"] not in ("Const", "Input", "Output", "Reorder"):
            first = told["originalLayersNames"].partition(",")[0]
            yield Node(told["layerType"], first or op.get_friendly_name(), told["runtimePrecision"])
