"""Does a file compute what was trained? Logits of network, exact executor and runtime, compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spaceevo.errors import ExportError, MissingExtraError
from spaceevo.latency.measure import Model, session_of


@dataclass(frozen=True)
class ParityReport:
    """How far two sets of logits of the same images are apart.

    Attributes:
        images: number of images.
        agreement: images with the same top-1, in percent.
        mean_difference: mean absolute difference over the reference's standard deviation.
        max_difference: greatest absolute difference over the reference's standard deviation.
    """

    images: int
    agreement: float
    mean_difference: float
    max_difference: float


@dataclass(frozen=True)
class Tolerance:
    """What a file must keep to.

    Attributes:
        min_agreement: images with the trained network's top-1, in percent.
        max_mean_difference: of logits, over their standard deviation.
    """

    min_agreement: float
    max_mean_difference: float

    def check(self, what: str, report: ParityReport, where: str) -> None:
        """Let a file pass.

        Args:
            what: the file.
            report: its comparison with the trained network.
            where: it first differs.

        Raises:
            ExportError: it is too far from the trained network.
        """
        if report.agreement >= self.min_agreement and report.mean_difference <= self.max_mean_difference:
            return
        raise ExportError(
            f"{what} is not the trained network: top-1 agrees on {report.agreement:.2f} % of {report.images} images "
            f"(recipe.export.min_agreement: {self.min_agreement:g}), logits differ by {report.mean_difference:.3g} of "
            f"their std on average (recipe.export.max_mean_difference: {self.max_mean_difference:g}); "
            f"first divergence: {where}; no file was written"
        )


def compare(reference_logits: Tensor, logits: Tensor) -> ParityReport:
    """Compare logits `(N, classes)` with reference ones.

    Raises:
        ExportError: the shapes differ.
    """
    if reference_logits.shape != logits.shape:
        shapes = f"{tuple(logits.shape)} against {tuple(reference_logits.shape)} of the reference"
        raise ExportError(f"logits of shape {shapes} cannot be compared; run both on the same images and classes")
    difference = (logits - reference_logits).abs() / reference_logits.std().clamp(min=1e-12)
    return ParityReport(
        images=len(logits),
        agreement=100.0 * float((logits.argmax(1) == reference_logits.argmax(1)).double().mean()),
        mean_difference=float(difference.mean()),
        max_difference=float(difference.max()),
    )


def run_onnx(model: Model, images: Tensor, batch_size: int = 64, optimize: bool = True) -> Tensor:
    """Logits `(N, classes)` that ONNX Runtime computes.

    Args:
        model: the file or its bytes.
        images: `(N, C, H, W)` of the model's resolution.
        batch_size: images run at a time.
        optimize: whether the runtime may fuse operators into integer ones, as it does when deployed.
    """
    return run_onnx_outputs(model, images, batch_size, optimize)[0]


def run_onnx_outputs(model: Model, images: Tensor, batch_size: int = 64, optimize: bool = True) -> list[Tensor]:
    """As `run_onnx`, every output of the file."""
    session = session_of(model, optimize=optimize)
    name = session.get_inputs()[0].name
    batches = [session.run(None, {name: batch.numpy()}) for batch in torch.split(images.cpu(), batch_size)]
    return [torch.cat([torch.from_numpy(part) for part in parts]) for parts in zip(*batches, strict=True)]


def run_tflite(model: Model, images: Tensor, batch_size: int = 64) -> Tensor:
    """Logits `(N, classes)`, or a map `(N, C, H, W)`, that LiteRT computes on one thread.

    Args:
        model: the file or its bytes.
        images: `(N, C, H, W)` of the model's resolution.
        batch_size: images run at a time.

    Raises:
        MissingExtraError: `ai-edge-litert` is not installed.
    """
    return run_tflite_outputs(model, images, batch_size)[0]


def run_tflite_outputs(model: Model, images: Tensor, batch_size: int = 64) -> list[Tensor]:
    """As `run_tflite`, every output of the file."""
    interpreter = tflite_interpreter(model)
    (source,) = interpreter.get_input_details()
    batches = []
    for batch in torch.split(images.cpu().permute(0, 2, 3, 1).contiguous(), batch_size):
        if tuple(interpreter.get_input_details()[0]["shape"]) != tuple(batch.shape):
            interpreter.resize_tensor_input(source["index"], batch.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], batch.numpy())
        interpreter.invoke()
        batches.append([_channels_first(interpreter.get_tensor(o["index"])) for o in interpreter.get_output_details()])
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def _channels_first(values: NDArray[np.float32]) -> Tensor:
    tensor = torch.from_numpy(values)
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def tflite_interpreter(model: Model) -> Any:
    """A LiteRT interpreter of one thread, ready to be fed.

    Raises:
        MissingExtraError: `ai-edge-litert` is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingExtraError("ai-edge-litert", "tflite") from error
    content = model if isinstance(model, bytes) else model.read_bytes()
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter
