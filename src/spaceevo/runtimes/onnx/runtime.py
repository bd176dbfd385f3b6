"""Offers ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx

from spaceevo.nn.supernet import Network
from spaceevo.quant.program import Program
from spaceevo.runtimes.base import Profile, Runtime, Shape
from spaceevo.runtimes.onnx.float_writer import to_float_onnx
from spaceevo.runtimes.onnx.open_ends import open_end, open_start
from spaceevo.runtimes.onnx.operators import executed_nodes, is_float, operator_times, optimized
from spaceevo.runtimes.onnx.session import OnnxSession
from spaceevo.runtimes.onnx.writer import to_onnx
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.runtimes.random_program import random_block_program
from spaceevo.space.placement import PlacedBlock


class OnnxRuntime(Runtime):
    """Executes ONNX files, in which pairs of Q and DQ say what is an integer."""

    name = "onnxruntime"
    format = "onnx"
    package = "onnxruntime"
    module = "onnxruntime"
    other_ways = ("unoptimized",)

    def write(
        self,
        program: Program,
        metadata: Mapping[str, str] | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        packed_channels: int | None = None,
        watch: Sequence[str] = (),
    ) -> bytes:
        """Write an integer program; nothing is packed."""
        return bytes(to_onnx(program, metadata, preprocessing=preprocessing, watch=watch).SerializeToString())

    def write_float(self, network: Network, shape: Shape, metadata: Mapping[str, str] | None = None) -> bytes:
        """Write a network in fp32 by torch's own exporter."""
        return to_float_onnx(network, shape, metadata)

    def load(self, file: bytes, way: str = "") -> OnnxSession:
        """Load a file; `unoptimized` executes every Q and DQ by itself, in float between them."""
        return OnnxSession(file, optimize=way != "unoptimized")

    def profile(self, file: bytes, repeats: int) -> Profile:
        """Time every operator within the file."""
        return Profile(operator_times(file, repeats))

    def op_counts(self, file: bytes) -> dict[str, int]:
        """Count the operators by type, as they are fused on this machine."""
        return dict(Counter(node.op_type for node in executed_nodes(file)))

    def float_ops(self, file: bytes) -> list[str]:
        """List the operators that compute in float, as `type name`."""
        return [f"{node.op_type} {node.name or node.output[0]}" for node in executed_nodes(file) if is_float(node)]

    def metadata(self, file: bytes) -> dict[str, str]:
        """Read the file's `metadata_props`."""
        return {entry.key: entry.value for entry in onnx.load_from_string(file).metadata_props}

    def prepare(self, file: bytes) -> bytes:
        """Rewrite a file with its operators fused already."""
        return optimized(file)

    def compile_block(self, block: PlacedBlock, packed_channels: int | None = None) -> bytes:
        """Write a block with integers at both ends; the stem, with which a network begins, takes real images."""
        model = to_onnx(random_block_program(*block))
        if block[0].type != "FirstConv":
            open_start(model)
        open_end(model)
        return bytes(model.SerializeToString())

    def conversions(self, block: PlacedBlock) -> list[tuple[Shape, float]]:
        """Tell that running a model is measured too, which a network does once: with its stem."""
        return [] if block[0].type == "FirstConv" else [((1, 1, 1), 1.0)]
