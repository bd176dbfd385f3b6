"""Writes and reads ONNX files, whatever runtime executes them."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx.numpy_helper import to_array

from spaceevo.nn.supernet import Network
from spaceevo.quant.convert import WEIGHT_LIMIT
from spaceevo.quant.program import Program
from spaceevo.runtimes.base import PLAIN_FILE, FileOptions, Runtime, Shape, reads_file
from spaceevo.runtimes.onnx.float_writer import to_float_onnx
from spaceevo.runtimes.onnx.writer import open_end, open_start, to_onnx
from spaceevo.runtimes.random_program import random_block_program
from spaceevo.space.placement import PlacedBlock


def largest_weight(file: bytes) -> int:
    """Find the greatest int8 weight of an ONNX file, without sign."""
    tensors = onnx.load_from_string(file).graph.initializer
    weights = (to_array(tensor) for tensor in tensors if tensor.data_type == onnx.TensorProto.INT8)
    return max((int(np.abs(weight.astype(np.int16)).max(initial=0)) for weight in weights), default=0)


class OnnxFiles(Runtime):
    """Executes ONNX files, in which pairs of Q and DQ say what is an integer."""

    format = "onnx"
    channels_last = True  # whether maps lie so between the runtime's integer operators

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

    def compile_block(
        self, block: PlacedBlock, packed_channels: int | None = None, weight_limit: int = WEIGHT_LIMIT
    ) -> bytes:
        """Write a block with integers at both ends; the stem, with which a network begins, takes real images."""
        model = to_onnx(random_block_program(*block, weight_limit))
        if block[0].type != "FirstConv":
            open_start(model)
        open_end(model, channels_last=self.channels_last)
        return bytes(model.SerializeToString())

    def conversions(self, block: PlacedBlock) -> list[tuple[Shape, float]]:
        """Tell that running a model is measured too, which a network does once: with its stem."""
        return [] if block[0].type == "FirstConv" else [((1, 1, 1), 1.0)]

    @reads_file
    def largest_weight(self, file: bytes) -> int:
        """Find the greatest int8 weight, without sign."""
        return largest_weight(file)
