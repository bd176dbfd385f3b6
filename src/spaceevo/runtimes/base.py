"""Defines what a runtime offers: one object writes, loads and looks into the files of one format."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib.metadata import version
from importlib.util import find_spec
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from spaceevo.errors import ExportError, MissingExtraError, SpaceEvoError, fault_line
from spaceevo.nn.supernet import Network
from spaceevo.quant.convert import WEIGHT_LIMIT
from spaceevo.quant.program import Program
from spaceevo.runtimes.preprocessing import Preprocessing
from spaceevo.runtimes.random_program import random_block_program
from spaceevo.space.placement import PlacedBlock
from spaceevo.terminal import told

Shape = tuple[int, int, int]  # Channels, height and width `(C, H, W)` of one image or feature map
P = ParamSpec("P")
R = TypeVar("R", bound="Runtime")
T = TypeVar("T")
INPUT_NAME = "images"
OUTPUT_NAME = "logits"


class OperatorTime(NamedTuple):
    """Says how long one operator of a file takes: the least of its runs, for medians mean little on a busy machine."""

    name: str
    kind: str
    least_ms: float

    @property
    def stage(self) -> str:
        """Tell the network's stage from the name, e.g. `stage1` of `stage1.0.expand.q`; `other` if it has none."""
        match = re.match(r"[a-z]+(_[a-z]+)?\d?(?=\.\d+\.)", self.name)
        return match[0] if match else "other"


class Profile(NamedTuple):
    """Says where the time of a file goes, its operators in order of execution."""

    operators: list[OperatorTime]  # time of each
    # latency of the file in ms, to hold their sum against, where they could only be timed apart from it
    whole_ms: float | None = None


class FileOptions(NamedTuple):
    """Says how an integer program is written."""

    # done in the file where it says `inside`; the input is then uint8 `pixels`
    preprocessing: Preprocessing | None = None
    # channels to which pixels of narrow convolutions are packed, where the runtime gains by it; None fills this
    # machine's matrix units, 1 packs none
    packed_channels: int | None = None
    watch: Sequence[str] = ()  # tensors of the program that are outputs too, after the logits


PLAIN_FILE = FileOptions()


def reads_file(method: Callable[Concatenate[R, bytes, P], T]) -> Callable[Concatenate[R, bytes, P], T]:
    """Tell in one line, as an `ExportError`, whatever a method of a runtime raises at a file that is broken."""

    @wraps(method)
    def read(self: R, file: bytes, /, *args: P.args, **settings: P.kwargs) -> T:
        try:
            return method(self, file, *args, **settings)
        except SpaceEvoError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ExportError(f"this is not a readable {self.format} file ({reason}); export it again") from error

    return read


class Session(ABC):
    """Runs a file that is loaded in its runtime: one thread, any batch size."""

    @abstractmethod
    def outputs(self, images: Tensor) -> list[Tensor]:
        """Compute every output of the file for images `(N, C, H, W)`; maps come as `(N, C, H, W)`, too."""

    @abstractmethod
    def invoke(self) -> object:
        """Compute once, batch 1, on random values that were set before: what is timed."""

    def run(self, images: Tensor, batch_size: int = 64) -> list[Tensor]:
        """Compute every output of the file for images `(N, C, H, W)`, so many at a time.

        Raises:
            ExportError: the runtime refuses to.
        """
        batches = torch.split(images.cpu(), batch_size)
        try:
            found = [self.outputs(batch) for batch in told(batches, "file, batches", len(batches))]
        except Exception as error:  # runtimes raise what they like
            if fault_line(error) is not None:
                raise
            reason = " ".join(str(error).split())[-200:] or type(error).__name__
            remedy = "where it speaks of a range or a scale, train the network for longer"
            raise ExportError(f"the runtime cannot execute the network ({reason}); {remedy}") from error
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def logits(self, images: Tensor, batch_size: int = 64) -> Tensor:
        """Compute the file's first output for images `(N, C, H, W)`."""
        return self.run(images, batch_size)[0]


class Runtime(ABC):
    """Writes networks as files of one format, and executes them.

    Every method but `require` may raise `MissingExtraError` where the runtime's package is optional and not installed.
    """

    name: str  # in settings
    format: str  # name of its file format, which is the files' suffix too
    package: str  # distribution that contains it
    module: str  # what is imported of it
    extra: str = ""  # our extra that installs it; empty where it is always installed
    normalises: bool = True  # whether it executes files that take pixels and normalise them
    rounds_twice: bool = False  # whether kernels round sums in fixed point: integers come out steps apart now and then
    other_ways: tuple[str, ...] = ()  # further ways to load a file, which the parity gate checks besides the usual one

    def require(self) -> None:
        """Check that the runtime is there; raises `MissingExtraError` where it is not installed."""
        if find_spec(self.module) is None:
            raise MissingExtraError(self.package, self.extra)

    def caution(self, largest_weight: int = WEIGHT_LIMIT) -> str:
        """Tell in one line why its integers are not a program's on this machine; empty where they are.

        `largest_weight` is the program's greatest, without sign.
        """
        return ""

    def version(self) -> str:
        """Return the version of the runtime's package."""
        return version(self.package)

    @abstractmethod
    def write(
        self, program: Program, metadata: Mapping[str, str] | None = None, options: FileOptions = PLAIN_FILE
    ) -> bytes:
        """Write an integer program: float input `images`, float output `logits`, every number as the program has it."""

    @abstractmethod
    def write_float(self, network: Network, shape: Shape, metadata: Mapping[str, str] | None = None) -> bytes:
        """Write an extracted network in fp32, its quantisers left out: float `images`, float `logits`.

        Args:
            network: the network, left as it was.
            shape: `(C, H, W)` of the images at the network's own resolution.
            metadata: texts that the file keeps.

        Raises:
            ExportError: the network cannot be written.
        """

    @abstractmethod
    def load(self, file: bytes, way: str = "") -> Session:
        """Load a file on one thread, as when deployed, or in one of the `other_ways`."""

    @abstractmethod
    def profile(self, file: bytes, repeats: int) -> Profile:
        """Time every operator that is executed: one thread, batch 1, the least of `repeats`."""

    @abstractmethod
    def op_counts(self, file: bytes) -> dict[str, int]:
        """Count the operators that are executed by type."""

    @abstractmethod
    def float_ops(self, file: bytes) -> list[str]:
        """List the operators that compute in float; conversions to and from integers, and preprocessing, are none."""

    @abstractmethod
    def metadata(self, file: bytes) -> dict[str, str]:
        """Read the texts that a file keeps; empty for files of other origin."""

    @abstractmethod
    def conversions(self, block: PlacedBlock) -> list[tuple[Shape, float]]:
        """Tell what `compile_block` measures besides the block, which a network does not do between blocks.

        Returns:
            Shapes of tensors that are converted to integers and back, each with the share of this to be subtracted.
        """

    def integers(self, program: Program, images: Tensor, way: str = "") -> dict[str, Tensor]:
        """Compute the integers of every tensor of a program, as this runtime has them, to find where it differs."""
        names = [op.output for op in program.ops]
        values = self.load(self.write(program, options=FileOptions(watch=names)), way).run(images)[1:]
        found = dict(zip(names, values, strict=True))
        for name, value in found.items():
            if value.is_floating_point():
                quant = program.tensors[name]
                found[name] = (value.double() / quant.scale).round() + quant.zero_point
        return found

    def largest_weight(self, file: bytes) -> int:
        """Find the greatest int8 weight of a file, without sign, where that decides how the runtime computes."""
        return WEIGHT_LIMIT

    def prepare(self, file: bytes) -> bytes:
        """Rewrite a file as it is loaded soonest on this machine, for where it is to be loaded many times."""
        return file

    def compile_block(
        self, block: PlacedBlock, packed_channels: int | None = None, weight_limit: int = WEIGHT_LIMIT
    ) -> bytes:
        """Write a block with random weights up to `weight_limit`, as near as can be to how it runs within a network."""
        program = random_block_program(*block, weight_limit)
        return self.write(program, options=FileOptions(packed_channels=packed_channels))

    def packed(self, asked: int | None) -> int:
        """Resolve `packed_channels`: what this runtime's files are packed to; 1 where it packs nothing."""
        return 1
