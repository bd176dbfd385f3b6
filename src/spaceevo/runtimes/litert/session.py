"""Runs TFLite files in LiteRT."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spaceevo.errors import MissingExtraError
from spaceevo.runtimes.base import Session
from spaceevo.runtimes.litert.flatbuffer import EXTRA, PACKAGE


class LiteRtSession(Session):
    """Runs a TFLite file on one thread of the CPU.

    Args:
        file: content of the file.

    Raises:
        MissingExtraError: `ai-edge-litert` is not installed.
    """

    def __init__(self, file: bytes) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise MissingExtraError(PACKAGE, EXTRA) from error
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
        found = self.interpreter.get_output_details()
        return [_channels_first(self.interpreter.get_tensor(value["index"])) for value in found]

    def invoke(self) -> object:
        """Compute once on random values, batch 1."""
        return self.interpreter.invoke()


def _channels_first(values: NDArray[np.float32]) -> Tensor:
    tensor = torch.from_numpy(values)
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor
