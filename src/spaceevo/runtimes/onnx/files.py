"""Writes and reads ONNX files, whatever runtime executes them."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx.numpy_helper import to_array

from spaceevo.nn.supernet import Network
from spaceevo.quant.program import Program
from spaceevo.runtimes.base import PLAIN_FILE, FileOptions, Runtime, Shape, reads_file
from spaceevo.runtimes.onnx.float_writer import to_float_onnx
from spaceevo.runtimes.onnx.writer import to_onnx


def largest_weight(file: bytes) -> int:
    """Find the greatest int8 weight of an ONNX file, without sign."""
    tensors = onnx.load_from_string(file).graph.initializer
    weights = (to_array(tensor) for tensor in tensors if tensor.data_type == onnx.TensorProto.INT8)
    return max((int(np.abs(weight.astype(np.int16)).max(initial=0)) for weight in weights), default=0)


class OnnxFiles(Runtime):
    """Executes ONNX files, in which pairs of Q and DQ say what is an integer."""

    format = "onnx"

    def write(
        self, program: Program, metadata: Mapping[str, str] | None = None, options: FileOptions = PLAIN_FILE
    ) -> bytes:
        """Write an integer program; nothing is packed."""
        return bytes(to_onnx(program, metadata, options).SerializeToString())

    def write_float(self, network: Network, shape: Shape, metadata: Mapping[str, str] | None = None) -> bytes:
        """Write a network in fp32, batch norm folded."""
        return to_float_onnx(network, shape, metadata)

    @reads_file
    def metadata(self, file: bytes) -> dict[str, str]:
        """Read the file's `metadata_props`."""
        return {entry.key: entry.value for entry in onnx.load_from_string(file).metadata_props}

    @reads_file
    def largest_weight(self, file: bytes) -> int:
        """Find the greatest int8 weight, without sign."""
        return largest_weight(file)
