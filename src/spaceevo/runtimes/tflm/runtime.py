"""Offers TensorFlow Lite Micro, which executes TFLite files on microcontrollers; here its portable kernels run."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from spaceevo.quant.program import Program
from spaceevo.runtimes.base import PLAIN_FILE, FileOptions, Session, reads_file
from spaceevo.runtimes.litert.files import TfliteFiles
from spaceevo.runtimes.litert.flatbuffer import read_model

ARENA_BYTES = 1 << 26  # Of sessions here: what a network needs is predicted, and refused where it is too much


class MicroSession(Session):
    """Runs a TFLite file by TensorFlow Lite Micro, an image at a time."""

    def __init__(self, file: bytes, arena_bytes: int = ARENA_BYTES) -> None:
        from tflite_micro.python.tflite_micro.runtime import Interpreter

        self.interpreter = Interpreter.from_bytes(file, arena_size=arena_bytes)
        source = self.interpreter.get_input_details(0)
        rng = np.random.default_rng(0)
        # Truncated to the input's type; what the values are does not matter.
        self.random = rng.standard_normal(source["shape"]).astype(source["dtype"])
        self.outputs_count = len(read_model(file).subgraphs[0].outputs)

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Compute every output of the file for images `(N, C, H, W)`; inside, channels come last."""
        found: list[list[Tensor]] = []
        for image in images.permute(0, 2, 3, 1).contiguous().numpy():
            self.interpreter.set_input(image[None], 0)
            self.interpreter.invoke()
            values = [torch.from_numpy(self.interpreter.get_output(i).copy()) for i in range(self.outputs_count)]
            found.append([value.permute(0, 3, 1, 2) if value.ndim == 4 else value for value in values])
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def invoke(self) -> object:
        """Compute once on random values, which the arena does not keep."""
        self.interpreter.set_input(self.random, 0)
        return self.interpreter.invoke()


class TfliteMicro(TfliteFiles):
    """Executes TFLite files by TensorFlow Lite Micro."""

    name = "tflite_micro"
    package = "tflite-micro"
    module = "tflite_micro"
    extra = "tflite-micro"
    normalises = False  # no kernel of it converts uint8 to float
    rounds_twice = True  # its portable kernels do

    def write(
        self, program: Program, metadata: Mapping[str, str] | None = None, options: FileOptions = PLAIN_FILE
    ) -> bytes:
        """Write an integer program, nothing packed: microcontrollers have no matrix units to fill."""
        return super().write(program, metadata, options._replace(packed_channels=1))

    @reads_file
    def load(self, file: bytes, way: str = "") -> MicroSession:
        """Load a file; there is but one way."""
        self.require()
        return MicroSession(file)
