"""LiteRT (TFLite) on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.util import find_spec

from spaceevo.errors import MissingExtraError
from spaceevo.export.float_tflite import to_float_tflite
from spaceevo.export.plain import to_plain
from spaceevo.export.tflite import to_tflite
from spaceevo.latency.measure import Model, Timing, provenance, time_models
from spaceevo.latency.tflite import PACKAGE, LiteRtRunner
from spaceevo.nn.supernet import Network
from spaceevo.quant.convert import ProgramBuilder
from spaceevo.quant.program import Program, TensorQuant
from spaceevo.space.placement import PlacedBlock
from spaceevo.space.walk import output_hw
from spaceevo.stages.platforms.measuring import BLOCK_REPEATS, MeasuringPlatform, less


class TflitePlatform(MeasuringPlatform):
    """What measuring TFLite files has in common, wherever they run.

    A block's file converts its input from real values and its output to them, which a network does not do between
    blocks; files that do nothing else tell what that takes.
    """

    suffix = ".tflite"
    packed_channels: int | None = None
    """As for `to_tflite`: this machine's."""

    @cached_property
    def converting_ms(self) -> dict[tuple[int, int, int], float]:
        """Latency in ms of quantising and dequantising a tensor `(C, H, W)`, as far as it was needed."""
        return {}

    def compile(self, program: Program) -> bytes:
        """The program as a TFLite file."""
        return to_tflite(program, packed_channels=self.packed_channels)

    def compile_float(self, network: Network, shape: tuple[int, int, int]) -> bytes:
        """The network as a TFLite file."""
        return to_float_tflite(to_plain(network), input_channels=shape[0])

    def net_ms(self, block: PlacedBlock, measured_ms: float) -> float:
        """A block's latency less half of converting both its ends to and fro."""
        return less(measured_ms, sum(map(self._converting_ms, _end_shapes(block))) / 2)

    def _converting_ms(self, shape: tuple[int, int, int]) -> float:
        if shape not in self.converting_ms:
            model = self.compile(ProgramBuilder(shape, TensorQuant(0.02, 128)).program)
            self.converting_ms[shape] = self.time_models({"ends": model}, BLOCK_REPEATS)["ends"].latency_ms
        return self.converting_ms[shape]


def _end_shapes(block: PlacedBlock) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Shapes `(C, H, W)` of a block's input and output."""
    spec, hw = block
    end = output_hw(spec, hw)
    return (spec.cin, hw, hw), (spec.cout, end, end)


class TfliteCpu(TflitePlatform):
    """LiteRT on this machine's processor: INT8, one thread, batch 1."""

    def describe(self, name: str) -> dict[str, str]:
        """Processor, LiteRT, clock.

        Raises:
            MissingExtraError: `ai-edge-litert` is not installed.
        """
        if find_spec("ai_edge_litert") is None:
            raise MissingExtraError(PACKAGE, "tflite")
        return provenance(name, PACKAGE)

    def time_models(
        self, models: Mapping[str, Model], repeats: int, on_progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Timing]:
        """Time TFLite models side by side."""
        return time_models(models, repeats, on_progress=on_progress, load=LiteRtRunner)
