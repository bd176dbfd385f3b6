"""INT8 files of one network in every format asked for, each compared with the trained network before it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spaceevo.errors import ConfigError, ExportError, choices
from spaceevo.export.divergence import (
    Divergence,
    Integers,
    exact_integers,
    first_divergence,
    network_integers,
    onnx_integers,
    tflite_integers,
)
from spaceevo.export.flatbuffer import read_metadata
from spaceevo.export.onnx import float_nodes, onnx_metadata, optimized_op_counts, to_onnx
from spaceevo.export.parity import Tolerance, compare, run_onnx, run_tflite
from spaceevo.export.preprocessing import Preprocessing
from spaceevo.export.tflite import tflite_float_ops, tflite_op_counts, to_tflite
from spaceevo.nn.evaluate import Batch, logits_of
from spaceevo.nn.supernet import Network, resize
from spaceevo.quant.program import Executor, Program

WATCHED_IMAGES = 16
"""Images of which every layer is compared, to name the first that differs."""


@dataclass(frozen=True)
class FileForm:
    """One file format.

    Attributes:
        write: program, metadata, preprocessing and the channels that narrow convolutions are packed to → the file.
        runs: ways to run a file: name → (file and images → logits). The first, nameless one is how it is deployed.
        integers: program and images → the integers of every tensor, as the format's runtime has them.
        op_counts: operators of the file by type, as they are executed.
        float_ops: those that compute in float.
        metadata: what a file says of itself.
    """

    write: Callable[[Program, Mapping[str, str], Preprocessing | None, int | None], bytes]
    runs: Mapping[str, Callable[[bytes, Tensor], Tensor]]
    integers: Callable[[Program, Tensor], Integers]
    op_counts: Callable[[bytes], dict[str, int]]
    float_ops: Callable[[bytes], list[str]]
    metadata: Callable[[bytes], dict[str, str]]


def _write_onnx(
    program: Program, metadata: Mapping[str, str], preprocessing: Preprocessing | None, packed_channels: int | None
) -> bytes:
    return bytes(to_onnx(program, metadata, preprocessing=preprocessing).SerializeToString())


def _write_tflite(
    program: Program, metadata: Mapping[str, str], preprocessing: Preprocessing | None, packed_channels: int | None
) -> bytes:
    return to_tflite(program, metadata, preprocessing=preprocessing, packed_channels=packed_channels)


def _run_unoptimized(file: bytes, images: Tensor) -> Tensor:
    return run_onnx(file, images, optimize=False)


FORMS: dict[str, FileForm] = {
    "onnx": FileForm(
        write=_write_onnx,
        runs={"": run_onnx, "unoptimized_": _run_unoptimized},
        integers=onnx_integers,
        op_counts=optimized_op_counts,
        float_ops=float_nodes,
        metadata=onnx_metadata,
    ),
    "tflite": FileForm(
        write=_write_tflite,
        runs={"": run_tflite},
        integers=tflite_integers,
        op_counts=tflite_op_counts,
        float_ops=lambda file: [f"{count} {kind}" for kind, count in tflite_float_ops(file).items()],
        metadata=read_metadata,
    ),
}


def forms(asked: str | list[str]) -> list[str]:
    """Formats asked for.

    Raises:
        ConfigError: one is unknown, or none is given.
    """
    names = [asked] if isinstance(asked, str) else list(asked)
    unknown = [name for name in names if name not in FORMS]
    if unknown or not names:
        raise ConfigError(f"format = {asked}; allowed: {choices(FORMS)}, or a list of them")
    return names


class Bundle:
    """A trained network, its program, and what both compute on the test images.

    Args:
        network: an extracted network under `deploy`, in eval mode.
        program: its integer program.
        batches: test images of any size and their labels.
        packed_channels: of TFLite files; as for `to_tflite`.
    """

    def __init__(
        self, network: Network, program: Program, batches: Sequence[Batch], packed_channels: int | None = None
    ) -> None:
        self.network, self.program, self.packed_channels = network, program, packed_channels
        self.images = torch.cat([resize(images, network.resolution) for images, _ in batches])
        self.trained, self.labels = logits_of(network, batches)
        self.exact = _batched(Executor(program), self.images)
        self.folded = _batched(Executor(program, torch.float32), self.images)

    def check(self, form: str, tolerance: Tolerance, *, allow_float: bool = False) -> dict[str, Any]:
        """Run a file of this form on all images, in every way; figures of its parity.

        Raises:
            ExportError: it differs from the trained network by more than the tolerance, or computes in float.
        """
        kind, where = FORMS[form], self._where(form)
        file = kind.write(self.program, {}, None, self.packed_channels)
        float_ops, op_counts = kind.float_ops(file), kind.op_counts(file)
        figures: dict[str, Any] = {}
        for way, run in kind.runs.items():
            logits = run(file, self.images)
            trained, folded = compare(self.trained, logits), compare(self.folded, logits)
            tolerance.check(f"the {form} file" + f" ({way.strip('_')})" * bool(way), trained, where)
            figures |= {
                f"{way}agreement": trained.agreement,
                f"{way}mean_difference_std": trained.mean_difference,
                f"{way}max_difference_std": trained.max_difference,
                f"{way}folded_agreement": folded.agreement,
                f"{way}folded_mean_difference_std": folded.mean_difference,
                f"{way}bit_equal": self._bit_equal(logits),
                f"{way}int8_top1": _top1(logits, self.labels),
            }
        if float_ops and not allow_float:
            raise ExportError(
                f"the {form} file computes in float: {choices(float_ops)}; recipe.export.allow_float=true lets it pass"
            )
        found = {"first_divergence": where, "float_layers": len(float_ops), "float_ops": float_ops}
        return {f"{form}_{name}": value for name, value in (figures | found | {"op_counts": op_counts}).items()}

    def check_pixels(self, form: str, preprocessing: Preprocessing) -> None:
        """Let a file that normalises pass: on the images' nearest pixels it gives what one that does not gives.

        Raises:
            ExportError: it does not.
        """
        gain, shift = (torch.from_numpy(factor).view(1, -1, 1, 1) for factor in preprocessing.factors())
        pixels = ((self.images - shift) / gain).round().clamp(0, 255)
        run = FORMS[form].runs[""]
        outside = run(FORMS[form].write(self.program, {}, None, self.packed_channels), pixels * gain + shift)
        inside = run(FORMS[form].write(self.program, {}, preprocessing, self.packed_channels), pixels.to(torch.uint8))
        Tolerance(99.0, 0.02).check(f"the {form} file on pixels", compare(outside, inside), "its preprocessing")

    def _bit_equal(self, logits: Tensor) -> float:
        """Logits on the same integer as the exact executor's, in percent."""
        step = self.program.tensors[self.program.output_name].scale
        return 100.0 * float(((logits - self.exact).abs() < step / 2).double().mean())

    def figures(self) -> dict[str, float]:
        """How the trained network, its folded evaluation and the exact executor compare."""
        return {
            "int8_top1": _top1(self.trained, self.labels),
            "folded_int8_top1": _top1(self.folded, self.labels),
            "folded_agreement": compare(self.trained, self.folded).agreement,
            "exact_agreement": compare(self.trained, self.exact).agreement,
            "exact_mean_difference_std": compare(self.trained, self.exact).mean_difference,
        }

    def _where(self, form: str) -> str:
        """First tensors that differ: trained network against exact executor, and that against the runtime."""
        images = self.images[:WATCHED_IMAGES]
        exact = exact_integers(self.program, images)
        pairs = {
            "trained/exact": (network_integers(self.network, self.program, images), exact),
            f"exact/{form}": (exact, FORMS[form].integers(self.program, images)),
        }
        found = {pair: first_divergence(self.program, *integers) for pair, integers in pairs.items()}
        return ", ".join(f"{pair} {_told(at)}" for pair, at in found.items())


def _told(at: Divergence | None) -> str:
    return "nowhere" if at is None else f"at {at.tensor} ({at.share:.1f} % of its integers, up to {at.steps} steps)"


def _top1(logits: Tensor, labels: Tensor) -> float:
    return 100.0 * float((logits.argmax(1) == labels).double().mean())


def _batched(executor: Executor, images: Tensor, batch_size: int = 64) -> Tensor:
    return torch.cat([executor(batch) for batch in torch.split(images, batch_size)])
