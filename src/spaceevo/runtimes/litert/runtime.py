"""Offers LiteRT, as TFLite is called now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from spaceevo.nn.supernet import Network
from spaceevo.quant.program import Program
from spaceevo.runtimes.base import Profile, Runtime, Shape
from spaceevo.runtimes.litert.flatbuffer import EXTRA, PACKAGE, read_metadata, read_model
from spaceevo.runtimes.litert.float_writer import to_float_tflite
from spaceevo.runtimes.litert.operators import float_operators, operator_kinds, operator_times
from spaceevo.runtimes.litert.packing import native_channels
from spaceevo.runtimes.litert.session import LiteRtSession
from spaceevo.runtimes.litert.writer import to_tflite
from spaceevo.runtimes.plain import to_plain
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.space.placement import PlacedBlock, place


class LiteRt(Runtime):
    """Executes TFLite files, in which every tensor is int8."""

    name = "litert"
    format = "tflite"
    package = PACKAGE
    module = "ai_edge_litert"
    extra = EXTRA

    def write(
        self,
        program: Program,
        metadata: Mapping[str, str] | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        packed_channels: int | None = None,
        watch: Sequence[str] = (),
    ) -> bytes:
        """Write an integer program; images are `(1, H, W, C)` in the file, and N can be resized."""
        return to_tflite(program, metadata, preprocessing=preprocessing, packed_channels=packed_channels, watch=watch)

    def write_float(self, network: Network, shape: Shape, metadata: Mapping[str, str] | None = None) -> bytes:
        """Write a network in fp32, batch norm folded."""
        return to_float_tflite(to_plain(network), shape[0], metadata)

    def load(self, file: bytes, way: str = "") -> LiteRtSession:
        """Load a file; there is but one way."""
        return LiteRtSession(file)

    def profile(self, file: bytes, repeats: int) -> Profile:
        """Time every operator as a file of its own, and the whole beside them."""
        return operator_times(file, repeats)

    def op_counts(self, file: bytes) -> dict[str, int]:
        """Count the operators by type."""
        return dict(Counter(operator_kinds(read_model(file))))

    def float_ops(self, file: bytes) -> list[str]:
        """List the operators that compute in float, as `count type`."""
        return [f"{count} {kind}" for kind, count in float_operators(file).items()]

    def metadata(self, file: bytes) -> dict[str, str]:
        """Read the metadata entry `spaceevo`."""
        return read_metadata(file)

    def conversions(self, block: PlacedBlock) -> list[tuple[Shape, float]]:
        """Tell that a block converts its input from real values and its output to them: half of each to and fro."""
        spec, hw = block
        _, (_, output_hw) = place([spec, spec], hw)
        return [((spec.cin, hw, hw), 0.5), ((spec.cout, output_hw, output_hw), 0.5)]

    def packed(self, asked: int | None) -> int:
        """Resolve `packed_channels`: this machine's where nothing is asked for."""
        return native_channels() if asked is None else asked
