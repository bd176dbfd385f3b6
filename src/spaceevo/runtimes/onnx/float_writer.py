"""Writes fp32 networks as ONNX, by torch's own exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping

import torch
from onnx import helper
from torch import nn

from spaceevo.errors import ExportError
from spaceevo.quant.prepare import quantizers
from spaceevo.runtimes.base import INPUT_NAME, OUTPUT_NAME, Shape


def to_float_onnx(network: nn.Module, shape: Shape, metadata: Mapping[str, str] | None = None) -> bytes:
    """Write a network in fp32, its quantisers off: float input `images`, float output `logits`, dynamic batch.

    The network is left as it was, in its mode and with its quantisers on or off.

    Args:
        network: an extracted network.
        shape: `(C, H, W)` of the images at the network's own resolution, so that nothing is resized.
        metadata: kept in the file's `metadata_props`.

    Raises:
        ExportError: torch cannot export the network.
    """
    images = torch.zeros(2, *shape, device=next(network.parameters()).device)
    try:
        with _as_float(network), _silence():
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).splitlines()[0]
        raise ExportError(
            f"torch cannot write the fp32 network as ONNX ({reason}); the INT8 file needs no torch export"
        ) from error
    assert program is not None
    model = program.model_proto
    helper.set_model_props(model, dict(metadata or {}))
    return bytes(model.SerializeToString())


@contextlib.contextmanager
def _as_float(network: nn.Module) -> Iterator[None]:
    """Evaluation mode with all quantisers off; restores both."""
    modes = [(module, module.training) for module in network.modules()]
    switches = [(quantizer, quantizer.is_on) for quantizer in quantizers(network).values()]
    network.eval()
    for quantizer, _ in switches:
        quantizer.turn(False)
    try:
        yield
    finally:
        for quantizer, on in switches:
            quantizer.turn(on)
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Drop what the exporter prints, logs and warns of; its errors still come through."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
