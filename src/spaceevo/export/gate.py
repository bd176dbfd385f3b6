"""Compares INT8 files with the trained network before they are written: the parity gate."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spaceevo.errors import ConfigError, ExportError, choices
from spaceevo.export.parity import Divergence, Tolerance, compare, first_divergence, network_integers
from spaceevo.nn.evaluate import Batch, logits_of
from spaceevo.nn.supernet import Network, resize
from spaceevo.quant.program import Executor, Program
from spaceevo.runtimes.base import FileOptions
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.runtimes.registry import formats, runtime_for

WATCHED_IMAGES = 16  # Images of which every layer is compared, to name the first that differs
Figure = float | str | list[str] | dict[str, int]


def asked_formats(asked: str | Sequence[str]) -> list[str]:
    """List the file formats asked for, one or several; raises `ConfigError` where one is unknown or none given."""
    names = [asked] if isinstance(asked, str) else list(asked)
    if not names or not set(names) <= set(formats()):
        raise ConfigError(f"format = [{', '.join(names)}]; allowed: {choices(formats())}, or a list of them")
    return names


class Gate:
    """Compares files of a program with the network, extracted and under `deploy`, that it was made of.

    `batches` are test images of any size and their labels.
    """

    def __init__(
        self, network: Network, program: Program, batches: Sequence[Batch], packed_channels: int | None = None
    ) -> None:
        self.network = network
        self.program = program
        self.packed_channels = packed_channels
        self.images = torch.cat([resize(images, network.resolution) for images, _ in batches])
        self.trained, self.labels = logits_of(network, batches)
        batched = torch.split(self.images, 64)
        exact, folded = Executor(program), Executor(program, torch.float32)
        self.exact = torch.cat([exact(batch) for batch in batched])
        self.folded = torch.cat([folded(batch) for batch in batched])

    def figures(self) -> dict[str, float]:
        """Compare the trained network, its folded evaluation and the exact executor."""
        return {
            "int8_top1": top1(self.trained, self.labels),
            "folded_int8_top1": top1(self.folded, self.labels),
            "folded_agreement": compare(self.trained, self.folded).agreement,
            "exact_agreement": compare(self.trained, self.exact).agreement,
            "exact_mean_difference_std": compare(self.trained, self.exact).mean_difference,
        }

    def check(self, format: str, tolerance: Tolerance, *, allow_float: bool = False) -> dict[str, Figure]:
        """Run a file of this format on all images, in every way its runtime has; return figures of its parity.

        Raises:
            ExportError: it differs from the trained network by more than the tolerance, or computes in float.
        """
        runtime = runtime_for(format)
        file = self._file(format)
        where = self._first_divergences(format)
        figures: dict[str, Figure] = {}
        for way in ("", *runtime.other_ways):
            what = f"the {format} file" + f" ({way})" * bool(way)
            logits = runtime.load(file, way).logits(self.images)
            figures |= self._compared(f"{format}_{way}{'_' * bool(way)}", what, logits, tolerance, where)
        float_ops = runtime.float_ops(file)
        if float_ops and not allow_float:
            raise ExportError(
                f"the {format} file computes in float: {choices(float_ops)}; "
                "recipe.export.allow_float=true lets it pass"
            )
        return figures | {
            f"{format}_first_divergence": where,
            f"{format}_float_layers": len(float_ops),
            f"{format}_float_ops": float_ops,
            f"{format}_op_counts": runtime.op_counts(file),
        }

    def check_pixels(self, format: str, preprocessing: Preprocessing) -> None:
        """Let a file that normalises pass if it gives what one that does not gives on the images' nearest pixels.

        Raises:
            ExportError: it does not.
        """
        gain, shift = (torch.from_numpy(factor).view(1, -1, 1, 1) for factor in preprocessing.factors())
        pixels = ((self.images - shift) / gain).round().clamp(0, 255)
        runtime = runtime_for(format)
        outside = runtime.load(self._file(format)).logits(pixels * gain + shift)
        inside = runtime.load(self._file(format, preprocessing)).logits(pixels.to(torch.uint8))
        Tolerance(99.0, 0.02).check(f"the {format} file on pixels", compare(outside, inside), "its preprocessing")

    def _file(self, format: str, preprocessing: Preprocessing | None = None) -> bytes:
        return runtime_for(format).write(self.program, options=FileOptions(preprocessing, self.packed_channels))

    def _compared(self, prefix: str, what: str, logits: Tensor, tolerance: Tolerance, where: str) -> dict[str, float]:
        trained = compare(self.trained, logits)
        folded = compare(self.folded, logits)
        tolerance.check(what, trained, where)
        step = self.program.tensors[self.program.output_name].scale
        figures = {
            "agreement": trained.agreement,
            "mean_difference_std": trained.mean_difference,
            "max_difference_std": trained.max_difference,
            "folded_agreement": folded.agreement,
            "folded_mean_difference_std": folded.mean_difference,
            "bit_equal": 100.0 * float(((logits - self.exact).abs() < step / 2).double().mean()),
            "int8_top1": top1(logits, self.labels),
        }
        return {f"{prefix}{name}": figure for name, figure in figures.items()}

    def _first_divergences(self, format: str) -> str:
        """Tell the first tensors that differ: trained network against exact executor, that against the runtime."""
        images = self.images[:WATCHED_IMAGES]
        exact = Executor(self.program).integers(images)
        pairs = {
            "trained/exact": (network_integers(self.network, self.program, images), exact),
            f"exact/{format}": (exact, runtime_for(format).integers(self.program, images)),
        }
        found = {pair: first_divergence(self.program, *integers) for pair, integers in pairs.items()}
        return ", ".join(f"{pair} {_told(at)}" for pair, at in found.items())


def top1(logits: Tensor, labels: Tensor) -> float:
    """Compute the share of images, in percent, whose greatest logit `(N, classes)` is that of their label `(N,)`."""
    return 100.0 * float((logits.argmax(1) == labels).double().mean())


def _told(at: Divergence | None) -> str:
    return "nowhere" if at is None else f"at {at.tensor} ({at.share:.1f} % of its integers, up to {at.steps} steps)"
