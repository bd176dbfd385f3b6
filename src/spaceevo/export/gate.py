"""Compares INT8 files with the trained network before they are written: the parity gate."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from spaceevo.errors import ConfigError, ExportError, choices
from spaceevo.export.parity import Divergence, Tolerance, compare, first_divergence, network_integers
from spaceevo.nn.calibrate import IMAGES_A_PASS
from spaceevo.nn.evaluate import Batch, logits_of
from spaceevo.nn.supernet import Network, resize
from spaceevo.quant.program import Executor, Program
from spaceevo.runtimes.base import FileOptions, Runtime, Shape
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.runtimes.registry import formats, runtime_for
from spaceevo.terminal import told

WATCHED_IMAGES = 16  # Images of which every layer is compared, to name the first that differs
FIRST_IMAGES = 64  # Images that go first, to fail early
PIXELS = Tolerance(99.0, 0.02)  # Of a file that normalises pixels with one that does not
Figure = float | str | list[str] | dict[str, int]


def asked_formats(asked: str | Sequence[str]) -> list[str]:
    """List the file formats asked for, one or several; raises `ConfigError` where one is unknown or none given."""
    names = [asked] if isinstance(asked, str) else list(asked)
    if not names or not set(names) <= set(formats()):
        raise ConfigError(f"format = [{', '.join(names)}]; allowed: {choices(formats())}, or a list of them")
    return names


class Gate:
    """Compares files of a program with the network, extracted and under `deploy`, that it was made of.

    `batches` are test images of any size and their labels. All logits are computed when first asked for. A network that
    was never trained enlarges every rounding from layer to layer; the exact executor stands for it.
    """

    def __init__(
        self,
        network: Network,
        program: Program,
        batches: Sequence[Batch],
        packed_channels: int | None = None,
        *,
        is_trained: bool = True,
    ) -> None:
        self.network = network
        self.is_trained = is_trained
        self.program = program
        self.packed_channels = packed_channels
        self.images = torch.cat([resize(images, network.resolution) for images, _ in batches])
        self.labels = torch.cat([labels for _, labels in batches])
        self.step = program.tensors[program.output_name].scale
        # spread over all, since test images come class by class
        self.first = self.images[torch.linspace(0, len(self.images) - 1, min(FIRST_IMAGES, len(self.images))).long()]

    @cached_property
    def trained(self) -> Tensor:
        """Logits of the trained network, `(N, classes)`."""
        return self._logits(self.network, self.images) if self.is_trained else self.exact

    @cached_property
    def exact(self) -> Tensor:
        """Logits of the exact executor."""
        return self._executed(torch.float64)

    @cached_property
    def folded(self) -> Tensor:
        """Logits of the folded evaluation, in float32."""
        return self._executed(torch.float32)

    def _logits(self, network: Network, images: Tensor) -> Tensor:
        return logits_of(network, [(images, images.new_zeros(len(images)))])[0]

    def _executed(self, dtype: torch.dtype) -> Tensor:
        executor = Executor(self.program, dtype)
        batches = torch.split(self.images, IMAGES_A_PASS)
        return torch.cat([executor(batch) for batch in told(batches, "integer program, batches", len(batches))])

    def figures(self) -> dict[str, float]:
        """Compare the trained network, its folded evaluation and the exact executor."""
        exact = compare(self.trained, self.exact, self.step)
        return {
            "int8_top1": top1(self.trained, self.labels),
            "folded_int8_top1": top1(self.folded, self.labels),
            "folded_agreement": compare(self.trained, self.folded, self.step).agreement,
            "exact_agreement": exact.agreement,
            "exact_near_ties": exact.near_ties,
            "exact_mean_difference_std": exact.mean_difference,
        }

    def check_origin(self, published: Network, tolerance: Tolerance) -> dict[str, float]:
        """Compare the program with the network under `published` of which `network` was made, ranges calibrated.

        Raises:
            ExportError: they differ by more than the tolerance.
        """
        what, where = "the program with calibrated ranges", "ranges that integer runtimes cannot express"
        first = compare(self._logits(published, self.first), Executor(self.program)(self.first), self.step)
        tolerance.check_first(what, first, where)
        logits = self._logits(published, self.images)
        found = compare(logits, self.exact, self.step)
        tolerance.check(what, found, where)
        return {
            "published_int8_top1": top1(logits, self.labels),
            "published_agreement": found.agreement,
            "published_near_ties": found.near_ties,
            "published_mean_difference_std": found.mean_difference,
        }

    def check(
        self, format: str, tolerance: Tolerance, *, allow_float: bool = False, runtime: Runtime | None = None
    ) -> dict[str, Figure]:
        """Run a file of this format on all images, in every way its runtime has; return figures of its parity.

        A few images go first, so that what must fail fails at once.

        Args:
            format: the file's format, by which figures are named.
            tolerance: how far the file may be from the trained network.
            allow_float: whether operators may compute in float.
            runtime: another runtime that executes such files, instead of the format's own; figures have its name.

        Raises:
            ExportError: it differs from the trained network by more than the tolerance, or computes in float.
        """
        other, runtime = runtime, runtime or runtime_for(format)
        file, what = self._file(format), f"the {format} file" + f" in {runtime.name}" * (other is not None)
        float_ops = runtime.float_ops(file)
        if float_ops and not allow_float:
            raise ExportError(
                f"{what} computes in float: {choices(float_ops)}; recipe.export.allow_float=true lets it pass"
            )
        prefix = format if other is None else runtime.name
        where = self._first_divergences(prefix, runtime)
        sessions = {way: runtime.load(file, way) for way in ("", *runtime.other_ways)}
        names = {way: what + f" ({way})" * bool(way) for way in sessions}
        trained = self._logits(self.network, self.first) if self.is_trained else Executor(self.program)(self.first)
        for way, session in sessions.items():
            tolerance.check_first(names[way], compare(trained, session.logits(self.first), self.step), where)
        figures: dict[str, Figure] = {}
        for way, session in sessions.items():
            logits = session.logits(self.images)
            figures |= self._compared(f"{prefix}_{way}{'_' * bool(way)}", names[way], logits, tolerance, where)
        return figures | {
            f"{prefix}_first_divergence": where,
            f"{prefix}_float_layers": len(float_ops),
            f"{prefix}_float_ops": float_ops,
            f"{prefix}_op_counts": runtime.op_counts(file),
        }

    def check_pixels(self, format: str, preprocessing: Preprocessing, tolerance: Tolerance = PIXELS) -> None:
        """Let a file that normalises pass if it gives what one that does not gives on the images' nearest pixels.

        Raises:
            ExportError: it does not.
        """
        gain, shift = (torch.from_numpy(factor).view(1, -1, 1, 1) for factor in preprocessing.factors())
        pixels = ((self.images - shift) / gain).round().clamp(0, 255)
        runtime = runtime_for(format)
        outside = runtime.load(self._file(format)).logits(pixels * gain + shift)
        inside = runtime.load(self._file(format, preprocessing)).logits(pixels.to(torch.uint8))
        tolerance.check(f"the {format} file on pixels", compare(outside, inside, self.step), "its preprocessing")

    def _file(self, format: str, preprocessing: Preprocessing | None = None) -> bytes:
        return runtime_for(format).write(self.program, options=FileOptions(preprocessing, self.packed_channels))

    def _compared(self, prefix: str, what: str, logits: Tensor, tolerance: Tolerance, where: str) -> dict[str, Figure]:
        trained = compare(self.trained, logits, self.step)
        folded = compare(self.folded, logits, self.step)
        tolerance.check(what, trained, where)
        figures: dict[str, Figure] = {
            "agreement": trained.agreement,
            "near_ties": trained.near_ties,
            "parity": str(trained),
            "mean_difference_std": trained.mean_difference,
            "max_difference_std": trained.max_difference,
            "folded_agreement": folded.agreement,
            "folded_mean_difference_std": folded.mean_difference,
            "bit_equal": 100.0 * float(((logits - self.exact).abs() < self.step / 2).double().mean()),
            "int8_top1": top1(logits, self.labels),
        }
        return {f"{prefix}{name}": figure for name, figure in figures.items()}

    def _first_divergences(self, name: str, runtime: Runtime) -> str:
        """Tell the first tensors that differ: trained network against exact executor, that against the runtime."""
        images = self.images[:WATCHED_IMAGES]
        exact = Executor(self.program).integers(images)
        pairs = {
            "trained/exact": (network_integers(self.network, self.program, images), exact),
            f"exact/{name}": (exact, runtime.integers(self.program, images)),
        }
        found = {pair: first_divergence(self.program, *integers) for pair, integers in pairs.items()}
        told = ", ".join(f"{pair} {_told(at)}" for pair, at in found.items())
        return f"{told} ({caution})" if (caution := runtime.caution(self.program.largest_weight)) else told


def check_float(
    network: Network, formats: Sequence[str], batches: Sequence[Batch], shape: Shape, tolerance: Tolerance
) -> dict[str, Figure]:
    """Compare fp32 files of a network, whose images are `(C, H, W)`, with it; return figures of their parity.

    Raises:
        ExportError: one differs by more than the tolerance.
    """
    images = torch.cat([resize(images, network.resolution) for images, _ in batches])
    logits, _ = logits_of(network, batches)
    figures: dict[str, Figure] = {}
    for format in formats:
        runtime = runtime_for(format)
        found = compare(logits, runtime.load(runtime.write_float(network, shape)).logits(images))
        tolerance.check(f"the fp32 {format} file", found, "not looked for in fp32")
        figures[f"{format}_fp32_agreement"] = found.agreement
        figures[f"{format}_fp32_mean_difference_std"] = found.mean_difference
    return figures


def top1(logits: Tensor, labels: Tensor) -> float:
    """Compute the share of images, in percent, whose greatest logit `(N, classes)` is that of their label `(N,)`."""
    return 100.0 * float((logits.argmax(1) == labels).double().mean())


def _told(at: Divergence | None) -> str:
    return "nowhere" if at is None else f"at {at.tensor} ({at.share:.1f} % of its integers, up to {at.steps} steps)"
