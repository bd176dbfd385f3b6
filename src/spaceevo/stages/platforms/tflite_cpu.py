"""LiteRT (TFLite) on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec

from spaceevo.errors import MissingExtraError
from spaceevo.export.tflite import to_tflite
from spaceevo.latency.blocks import PlacedBlock, place
from spaceevo.latency.measure import Model, Timing, provenance, time_models
from spaceevo.latency.tflite import PACKAGE, LiteRtRunner
from spaceevo.quant.convert import ProgramBuilder
from spaceevo.quant.program import Program, TensorQuant
from spaceevo.stages.platforms.measuring import BLOCK_REPEATS, MeasuringPlatform


class TflitePlatform(MeasuringPlatform):
    """What measuring TFLite files has in common, wherever they run.

    A block's file converts its input from real values and its output to them, which a network does not do between
    blocks; files that do nothing else tell what that takes.
    """

    suffix = ".tflite"

    def compile(self, program: Program) -> bytes:
        """The program as a TFLite file."""
        return to_tflite(program)

    def alone_ms(self, blocks: Mapping[str, PlacedBlock]) -> dict[str, float]:
        """Measured latency in ms of blocks by themselves, less half of converting both ends to and fro."""
        ends = {block: _end_shapes(block) for block in blocks.values()}
        shapes = {shape for pair in ends.values() for shape in pair}
        models = {str(shape): self.compile(ProgramBuilder(shape, TensorQuant(0.02, 128)).program) for shape in shapes}
        models |= {key: self.compile_block(block) for key, block in blocks.items()}
        found = {name: timing.latency_ms for name, timing in self.time_models(models, BLOCK_REPEATS).items()}
        converting = {block: sum(found[str(shape)] for shape in pair) / 2 for block, pair in ends.items()}
        return {key: round(max(found[key] - converting[block], 0.1 * found[key]), 6) for key, block in blocks.items()}


@lru_cache(maxsize=1 << 16)
def _end_shapes(block: PlacedBlock) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Shapes `(C, H, W)` of a block's input and output."""
    spec, hw = block
    _, (_, output_hw) = place([spec, spec], hw)
    return (spec.cin, hw, hw), (spec.cout, output_hw, output_hw)


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
