"""LiteRT models ready to be timed."""

from __future__ import annotations

import numpy as np

from spaceevo.errors import MissingExtraError
from spaceevo.latency.measure import Model

PACKAGE = "ai-edge-litert"


class LiteRtRunner:
    """A model in LiteRT (TFLite) with a random input, on one thread.

    Raises:
        MissingExtraError: `ai-edge-litert` is not installed.
    """

    def __init__(self, model: Model) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise MissingExtraError(PACKAGE, "tflite") from error
        content = model if isinstance(model, bytes) else model.read_bytes()
        self.interpreter = Interpreter(model_content=content, num_threads=1)
        self.interpreter.allocate_tensors()
        rng = np.random.default_rng(0)
        for value in self.interpreter.get_input_details():
            # Truncated to the input's type; what the values are does not matter.
            self.interpreter.set_tensor(value["index"], rng.standard_normal(value["shape"]).astype(value["dtype"]))

    def run(self) -> object:
        """One inference."""
        return self.interpreter.invoke()
