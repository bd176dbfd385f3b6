"""fp32 network → ONNX, by torch's own exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from spaceevo.artifacts import atomic_path
from spaceevo.quant.prepare import quantizers


def export_float(network: nn.Module, input_shape: tuple[int, int, int], path: Path) -> None:
    """Write `network` with its quantisers off, weights inside the file, dynamic batch.

    Args:
        network: an extracted network.
        input_shape: `(C, H, W)` at the network's own resolution.
        path: file to write, atomically.
    """
    states = {quantizer: quantizer.is_on for quantizer in quantizers(network).values()}
    was_training = network.training
    for quantizer in states:
        quantizer.turn(False)
    try:
        with _silence():
            program = torch.onnx.export(
                network.eval(),
                (torch.zeros(2, *input_shape),),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        assert program is not None
        with atomic_path(path) as temporary:
            temporary.write_bytes(program.model_proto.SerializeToString())
    finally:
        for quantizer, on in states.items():
            quantizer.turn(on)
        network.train(was_training)


@contextlib.contextmanager
def _silence():  # type: ignore[no-untyped-def]
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
