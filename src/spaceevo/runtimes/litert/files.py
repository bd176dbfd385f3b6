"""Writes, reads and cuts TFLite files, whatever runtime executes them."""

import json
from collections import Counter
from collections.abc import Mapping

from spaceevo.nn.supernet import Network
from spaceevo.quant.program import Program
from spaceevo.runtimes.base import PLAIN_FILE, FileOptions, OperatorTime, Profile, Runtime, Shape, reads_file
from spaceevo.runtimes.litert.flatbuffer import METADATA_NAME, FlatbufferGraph, litert_schema, read_model
from spaceevo.runtimes.litert.float_writer import to_float_tflite
from spaceevo.runtimes.litert.operators import operator_files, operator_kinds
from spaceevo.runtimes.litert.writer import to_tflite
from spaceevo.runtimes.preprocessing import INSIDE_NAME
from spaceevo.runtimes.timing import time_models
from spaceevo.space.placement import PlacedBlock
from spaceevo.space.walk import output_hw


class TfliteFiles(Runtime):
    """Executes TFLite files, in which every tensor is int8."""

    format = "tflite"

    def write(
        self, program: Program, metadata: Mapping[str, str] | None = None, options: FileOptions = PLAIN_FILE
    ) -> bytes:
        """Write an integer program; images are `(1, H, W, C)` in the file, and N can be resized."""
        return to_tflite(program, metadata, options)

    def write_float(self, network: Network, shape: Shape, metadata: Mapping[str, str] | None = None) -> bytes:
        """Write a network in fp32, batch norm folded."""
        return to_float_tflite(network, shape[0], metadata)

    @reads_file
    def profile(self, file: bytes, repeats: int) -> Profile:
        """Time every operator as a file of its own, and the whole beside them.

        There is no profiler in Python. What running any file takes is taken off each; still, an operator alone is not
        the operator in its place, where the runtime plans memory for all and merges some. So the whole is timed beside
        them, to be compared with their sum, which lay 9 % below to 42 % above it where it was tried.
        """
        operators = operator_files(file)
        files = {"whole": file, "empty": _empty_file()} | {str(index): op.file for index, op in enumerate(operators)}
        whole, empty, *alone = time_models(files, self.load, repeats, group=len(files)).values()
        times_ms = [max(0.0, timing.latency_ms - empty.latency_ms) for timing in alone]
        rows = [OperatorTime(op.name, op.kind, ms) for op, ms in zip(operators, times_ms, strict=True)]
        return Profile(rows, whole.latency_ms)

    @reads_file
    def op_counts(self, file: bytes) -> dict[str, int]:
        """Count the operators by type."""
        return dict(Counter(operator_kinds(read_model(file))))

    @reads_file
    def float_ops(self, file: bytes) -> list[str]:
        """List the operators that compute in float, as `count type`."""
        model = read_model(file)
        (graph,) = model.subgraphs
        real = litert_schema().TensorType.FLOAT32
        found = Counter[str]()
        for kind, operator in zip(operator_kinds(model), graph.operators, strict=True):
            tensors = [graph.tensors[index] for index in (*operator.inputs, *operator.outputs)]
            is_border = any(x.name.startswith(INSIDE_NAME.encode()) for x in tensors)
            if kind not in ("QUANTIZE", "DEQUANTIZE") and not is_border and any(x.type == real for x in tensors):
                found[kind] += 1
        return [f"{count} {kind}" for kind, count in found.items()]

    @reads_file
    def metadata(self, file: bytes) -> dict[str, str]:
        """Read the metadata entry `spaceevo`."""
        model = read_model(file)
        found = (model.buffers[entry.buffer].data for entry in model.metadata or [] if entry.name == METADATA_NAME)
        texts: dict[str, str] = json.loads(bytes(next(found, b"{}")))
        return texts

    def conversions(self, block: PlacedBlock) -> list[tuple[Shape, float]]:
        """Tell that a block converts its input from real values and its output to them: half of each to and fro."""
        spec, hw = block
        end = output_hw(spec, hw)
        return [((spec.cin, hw, hw), 0.5), ((spec.cout, end, end), 0.5)]


def _empty_file() -> bytes:
    """Write a file that returns what it is fed."""
    graph = FlatbufferGraph()
    index = graph.tensor("x", (1,), "FLOAT32")
    return graph.pack([index], [index])
