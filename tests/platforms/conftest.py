"""A runtime and a place without clocks, for tests of platforms."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from spaceevo.nn.supernet import Network
from spaceevo.platforms.measuring import MeasuringPlatform
from spaceevo.quant.program import Program
from spaceevo.runtimes.base import PLAIN_FILE, FileOptions, Profile, Runtime, Session, Shape
from spaceevo.runtimes.registry import RUNTIMES
from spaceevo.runtimes.timing import Timing
from spaceevo.space.placement import PlacedBlock


class Desk(Runtime):
    """Writes a byte for every operation of a program; running a file takes a millisecond, and its input another."""

    name, format, package, module = "desk", "desk", "torch", "torch"

    def write(
        self, program: Program, metadata: Mapping[str, str] | None = None, options: FileOptions = PLAIN_FILE
    ) -> bytes:
        return bytes(len(program.ops))

    def write_float(self, network: Network, shape: Shape, metadata: Mapping[str, str] | None = None) -> bytes:
        return bytes(4 * len(list(network.modules())))

    def load(self, file: bytes, way: str = "") -> Session:
        raise NotImplementedError

    def profile(self, file: bytes, repeats: int) -> Profile:
        return Profile([])

    def op_counts(self, file: bytes) -> dict[str, int]:
        return {}

    def float_ops(self, file: bytes) -> list[str]:
        return []

    def metadata(self, file: bytes) -> dict[str, str]:
        return {}

    def conversions(self, block: PlacedBlock) -> list[tuple[Shape, float]]:
        return [] if block[0].type == "FirstConv" else [((1, 1, 1), 1.0)]

    def packed(self, asked: int | None) -> int:
        return asked or 1


class Bench:
    """A place where a file takes a millisecond, or as told, for each of its bytes, and one for running it.

    Networks, which have a space in their names, take `whole` times as long.
    """

    def __init__(self, machine: str = "A", per_byte: float = 1.0, once: float = 1.0, whole: float = 1.0) -> None:
        self.machine = machine
        self.per_byte = per_byte
        self.once = once
        self.whole = whole
        self.timed = list[str]()
        self.restless = set[str]()  # what is timed while something else runs

    def provenance(self, runtime: Runtime) -> dict[str, str]:
        return {"machine": self.machine, "date": "today"}

    def time_models(self, runtime: Runtime, models: Mapping[str, bytes], repeats: int) -> dict[str, Timing]:
        self.timed += models
        ms = {name: self.once + self.per_byte * len(file) for name, file in models.items()}
        return {
            name: Timing(ms[name] * (self.whole if " " in name else 1.0), 1.0, name not in self.restless)
            for name in models
        }


class Fake(MeasuringPlatform):
    """A desk's runtime on a bench."""

    def __init__(
        self,
        cache: Path,
        name: str = "fake",
        superspace: str = "digits",
        machine: str = "A",
        per_byte: float = 1.0,
        once: float = 1.0,
        whole: float = 1.0,
        **settings: Any,
    ):
        self.bench = Bench(machine, per_byte, once, whole)
        super().__init__(name, "desk", superspace, str(cache), place=self.bench, **settings)

    @property
    def timed(self) -> list[str]:
        return self.bench.timed


@pytest.fixture(autouse=True)
def desk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "desk", Desk())
