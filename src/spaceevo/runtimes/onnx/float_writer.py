"""Writes fp32 networks as ONNX, by torch's own exporter."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping

import torch
from onnx import helper
from torch import nn

from spaceevo.errors import ExportError
from spaceevo.quant.prepare import set_quant
from spaceevo.runtimes.base import INPUT_NAME, OUTPUT_NAME, Shape


def to_float_onnx(network: nn.Module, shape: Shape, metadata: Mapping[str, str] | None = None) -> bytes:
    """Write a network as `Runtime.write_float`; the batch is dynamic, and `metadata` kept in `metadata_props`.

    Raises:
        ExportError: torch cannot export the network.
    """
    network = copy.deepcopy(network).eval()
    set_quant(network, False)
    images = torch.zeros(2, *shape, device=next(network.parameters()).device)
    try:
        with _silence():
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
    model = program.model_proto  # made anew each time that it is read
    helper.set_model_props(model, dict(metadata or {}))
    return bytes(model.SerializeToString())


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Drop what the exporter prints, logs and warns of; its errors still come through."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(disabled)
