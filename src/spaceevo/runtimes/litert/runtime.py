"""Offers LiteRT, as TFLite is called now."""

import numpy as np
import torch
from torch import Tensor

from spaceevo.runtimes.base import Session, reads_file
from spaceevo.runtimes.litert.files import TfliteFiles
from spaceevo.runtimes.litert.flatbuffer import EXTRA, PACKAGE
from spaceevo.runtimes.litert.packing import channels_to_fill


class LiteRtSession(Session):
    """Runs a TFLite file on one thread of the CPU."""

    def __init__(self, file: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_content=file, num_threads=1)
        self.interpreter.allocate_tensors()
        rng = np.random.default_rng(0)
        for value in self.interpreter.get_input_details():
            # Truncated to the input's type; what the values are does not matter.
            self.interpreter.set_tensor(value["index"], rng.standard_normal(value["shape"]).astype(value["dtype"]))

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Compute every output of the file for images `(N, C, H, W)`; inside, channels come last."""
        batch = images.permute(0, 2, 3, 1).contiguous().numpy()
        (source,) = self.interpreter.get_input_details()
        if tuple(source["shape"]) != batch.shape:
            self.interpreter.resize_tensor_input(source["index"], batch.shape)
            self.interpreter.allocate_tensors()
        self.interpreter.set_tensor(source["index"], batch)
        self.interpreter.invoke()
        details = self.interpreter.get_output_details()
        found = [torch.from_numpy(self.interpreter.get_tensor(value["index"])) for value in details]
        return [value.permute(0, 3, 1, 2) if value.ndim == 4 else value for value in found]

    def invoke(self) -> object:
        """Compute once on random values, batch 1."""
        return self.interpreter.invoke()


class LiteRt(TfliteFiles):
    """Executes TFLite files by LiteRT."""

    name = "litert"
    package = PACKAGE
    module = "ai_edge_litert"
    extra = EXTRA

    @reads_file
    def load(self, file: bytes, way: str = "") -> LiteRtSession:
        """Load a file; there is but one way."""
        self.require()
        return LiteRtSession(file)

    def packed(self, asked: int | None) -> int:
        """Resolve `packed_channels`: this machine's where nothing is asked for."""
        return channels_to_fill(asked)
