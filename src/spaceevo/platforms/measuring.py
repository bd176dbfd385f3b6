"""Measures blocks when first asked for: a runtime in a place, with a table of what was measured there."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Annotated, Literal, Protocol

from spaceevo.artifacts.values import Channels, Name
from spaceevo.latency.accuracy import POOR_PERCENT
from spaceevo.latency.fastest import fastest_subnet
from spaceevo.latency.predictor import BlockLatency, FixedLatency
from spaceevo.latency.table import LatencyTable
from spaceevo.latency.whole import WholeNetworks
from spaceevo.platforms.base import WHERE, Platform, log
from spaceevo.quant.program import Program
from spaceevo.quant.quantizer import weight_limit
from spaceevo.runtimes.base import FileOptions, Runtime, Shape
from spaceevo.runtimes.machine import instruction_sets, machine_name, provenance
from spaceevo.runtimes.random_program import empty_program, random_program
from spaceevo.runtimes.registry import runtime_named
from spaceevo.runtimes.timing import CLOCK, Stillness, Timing, time_models
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import sample_networks
from spaceevo.space.placement import PlacedBlock, block_key, subnet_blocks
from spaceevo.space.spec import BlockSpec
from spaceevo.space.superspace import SpaceMember, Superspace
from spaceevo.terminal import console, doing, progress

BLOCKS, WHOLE, LOOK = "measured blocks", "networks measured whole", "looks at the core"  # Kinds of work
BLOCK_REPEATS = 10
CONVERSION_REPEATS = 20
# Of what is subtracted from every block: calls with still moments, and calls at most. By one call sums of blocks were
# half too low on a machine that was disturbed most of the time (20 µs for 10)
STILL_CALLS, CALLS = 2, 6
SAVE_EVERY = 64  # as many as are timed in turn
RESTLESS = 0.1  # The part of what is measured that may be timed while something else runs, without a word
FEW_BLOCKS = 64  # Left of a space, that are measured so that its fastest subnet is known
WHOLE_NETWORKS = 10
"""Measured where no profile was made: each is off by some 5 % of its own, their mean by less than 2."""
USUAL_FILES = {"packed_channels": "1", "weight_bits": "8"}
"""What files are that a table without these entries was measured on."""
WeightBits = Literal[7, 8]
TOGETHER = 64
TOGETHER_REPEATS = 20


class Place(Protocol):
    """Where models are run: this machine, or another one that can be reached."""

    def provenance(self, runtime: Runtime) -> dict[str, str]:
        """Say where and how measurements of today are made; `machine` names the machine."""

    def time_models(self, runtime: Runtime, models: Mapping[str, bytes], repeats: int) -> dict[str, Timing]:
        """Time files of the runtime: one thread, batch 1."""


class ThisMachine:
    """Runs models in this process."""

    def provenance(self, runtime: Runtime) -> dict[str, str]:
        """Say processor, runtime and clock; raises `MissingExtraError` where the runtime is not installed."""
        runtime.require()
        return provenance(machine_name(), " ".join(instruction_sets()), runtime.package, runtime.version(), CLOCK)

    def time_models(self, runtime: Runtime, models: Mapping[str, bytes], repeats: int) -> dict[str, Timing]:
        """Time files side by side."""
        return time_models(models, runtime.load, repeats)


class MeasuringPlatform(Platform):
    """Measures what its table lacks; where `+stage=profile` left a fitted model, that predicts it instead.

    Further arguments are as `Platform`'s.

    Args:
        runtime: name of the runtime, one of `runtimes.registry.RUNTIMES`.
        superspace: name of the superspace; each has a table and model of its own.
        cache: folder of the tables.
        table: JSON file of the table instead of the machine's own in `cache`.
        fixed_latency_ms: ms of first_conv, stage0 and head, instead of measuring them.
        unknown_blocks: `measure` them, take the `fitted` model, or `auto`: the model where it knows such blocks, and
            without one whole networks correct what is measured.
        weight_bits: bits of the weights of what is measured; with 7, ONNX Runtime takes faster kernels on x86
            processors without VNNI.
        place: machine on which the runtime runs; this machine by default.
    """

    unknown_choices = ("auto", "measure", "fitted")
    corrects = True  # whether whole networks correct what is measured

    def __init__(
        self,
        name: Name,
        runtime: Name,
        superspace: Name,
        cache: Annotated[str, WHERE],
        table: Annotated[str | None, WHERE] = None,
        fixed_latency_ms: FixedLatency = None,
        unknown_blocks: Literal["auto", "measure", "fitted"] = "auto",
        packed_channels: Channels | None = None,
        weight_bits: WeightBits = 8,
        place: Place | None = None,
    ) -> None:
        self.weight_limit = weight_limit(weight_bits)
        self.runtime = runtime_named(runtime)
        self.place = place or ThisMachine()
        self.provenance = {"platform": name, **self.place.provenance(self.runtime), "superspace": superspace}
        if (packed := self.runtime.packed(packed_channels)) > 1:  # tables without this entry are of unpacked files
            self.provenance["packed_channels"] = str(packed)
        if weight_bits < 8:  # likewise
            self.provenance["weight_bits"] = str(weight_bits)
        self.machine = self.provenance["machine"]
        if (caution := self.runtime.caution(self.weight_limit)) and place is None:
            log.warning(f"platform {name}: {caution}; latencies are right, answers are not the network's")
        digest = hashlib.sha256(str(self.provenance | {"date": ""}).encode()).hexdigest()[:8]
        path = table or str(Path(cache) / f"{name}-{superspace}-{digest}.json")
        super().__init__(name, path, fixed_latency_ms, unknown_blocks, packed_channels)
        self.is_local = self._is_of_here(self.predictor.table.provenance)
        self._conversions: dict[Shape, float] = {}
        self._restless: set[str] = set()  # what was measured in this job, and never at a still moment
        self._has_told = False  # of these
        self._is_ready = False

    def _is_of_here(self, known: Mapping[str, object]) -> bool:
        """Tell whether the table was measured as this platform measures; warns where it was not."""
        superspace = self.provenance["superspace"]
        measured_on = known.get("machine", self.machine)
        if measured_on != self.machine:
            log.warning(
                f"latency table {self.path} was measured on {measured_on}, this machine is {self.machine}: latencies "
                f"are the former's; +stage=profile, with no table set, measures this one"
            )
        if (fitted_on := known.get("superspace", superspace)) != superspace:
            log.warning(f"latency table {self.path} was made for superspace {fitted_on}, not {superspace}")
        for name, usual in USUAL_FILES.items():
            asked = self.provenance.get(name, usual)
            if known and (measured := str(known.get(name, usual))) != asked:
                log.warning(
                    f"latency table {self.path} was measured on files with {name}={measured}, "
                    f"not {asked}; +stage=profile, with no table set, measures these"
                )
                return False
        return measured_on == self.machine and self.measured_for == self.name

    def known_table(self) -> LatencyTable:
        """Read the table as it is now; empty before the first measurement."""
        return LatencyTable.load(self.path) if self.path.exists() else LatencyTable(provenance=self.provenance)

    def replace_table(self, table: LatencyTable) -> None:
        """Write a table that was measured as this platform measures in place of its own; predict by it from then on."""
        table.save(self.path)
        old, self.measured_for, self.is_local = self.predictor, self.name, True
        self.predictor = BlockLatency(self.known_table(), old.source, old.fixed_latency_ms, old.interpolate)

    def ready(self, superspace: Superspace) -> None:
        """Correct sums of blocks by some whole networks, once for a table, where `auto` has no fitted model.

        What other jobs found meanwhile counts. Kept in the table, and how far it is off in its provenance. A table that
        does not say where it was measured stays as it is.
        """
        if self._is_ready or not self._is_corrected():
            return
        self._is_ready = True
        table, known = self.predictor.table, self.known_table()
        if known.model is None and not known.is_corrected:
            self._look()
            with doing(WHOLE, WHOLE_NETWORKS):
                self._measure_whole(superspace)
        elif table.model is None:
            table.provenance = known.provenance
            self.predictor.correct(known.correction)

    def _is_corrected(self) -> bool:
        """Tell whether whole networks are to correct its table, or a model that a profile fits."""
        is_ours = self.is_local and self.predictor.table.provenance.get("machine") == self.machine
        return self.corrects and self.unknown_blocks == "auto" and is_ours

    def measured_first(self, superspace: Superspace) -> set[str]:
        """Tell which blocks will be measured, beside whole networks, before any block is asked for."""
        known = self.known_table()
        if self._is_ready or not self._is_corrected() or known.model is not None or known.is_corrected:
            return set()
        return {block_key(*block) for row in _whole_networks(superspace).values() for block in row}

    def _measure_whole(self, superspace: Superspace) -> None:
        placed = _whole_networks(superspace)
        console.print(
            f"platform {self.name}: {len(placed)} random networks of {superspace.name} are measured whole, "
            "once, to correct sums of blocks; +stage=profile predicts better"
        )
        blocks = {block_key(*block): block for row in placed.values() for block in row}
        found_ms = self.together_ms(blocks, placed)
        alone_ms = {key: found_ms[key] for key in blocks}
        whole = WholeNetworks.of(LatencyTable(alone_ms), list(placed.values()), [found_ms[name] for name in placed])
        error = whole.error()
        table = self.predictor.table
        table.provenance = {**table.provenance, **error.figures("correction_")}
        self.predictor.correct(whole.correction())
        self._append(alone_ms)
        self._tell_of_restless(found_ms)
        console.print(
            f"  they take {sum(whole.latency_ms) / sum(whole.sums_ms):.2f} times the sum of their blocks; corrected, "
            f"one that was not measured is off by {error.mape_percent:.1f} % on average"
        )
        if error.mape_percent > POOR_PERCENT:
            console.print(
                f"  that is poor: remove {self.path} and measure again while nothing else runs before building on it"
            )

    def together_ms(
        self, blocks: Mapping[str, PlacedBlock], networks: Mapping[str, list[PlacedBlock]]
    ) -> dict[str, float]:
        """Measure blocks by themselves and networks in ms, mixed: what slows the machine down slows both down."""
        names = Random(0).sample([*blocks, *networks], len(blocks) + len(networks))
        found: dict[str, float] = {}
        with progress() as bar:
            for start in bar.track(range(0, len(names), TOGETHER), description="blocks and networks"):
                files = {
                    name: self.compile_block(blocks[name]) if name in blocks else self.compile_random(networks[name])
                    for name in names[start : start + TOGETHER]
                }
                found |= self._noted_ms(files, TOGETHER_REPEATS)
        self.measure_conversions(blocks.values())
        return found | {key: self.net_ms(block, found[key]) for key, block in blocks.items()}

    @property
    def _may_measure(self) -> bool:
        return self.is_local and self.unknown_blocks != "fitted"

    def unmeasured(self, blocks: Iterable[PlacedBlock]) -> set[str]:
        """Return the keys of the blocks that `ensure` would measure."""
        return {*self.predictor.missing(blocks)} if self._may_measure else set()

    def ensure(self, blocks: Iterable[PlacedBlock]) -> None:
        """Measure the blocks that are unknown, saving as it goes, unless the table is another machine's."""
        placed = list(blocks)
        missing = self.predictor.missing(placed)
        if not missing:
            return
        if not self._may_measure:
            raise self.predictor.unknown(placed)
        with progress() as bar:
            task = bar.add_task(f"measuring {len(missing)} blocks on {self.machine}", total=len(missing))
            bar.update(task, completed=0)  # whoever watches knows then that none was measured before
            for start in range(0, len(missing), SAVE_EVERY):
                part = dict(islice(missing.items(), start, start + SAVE_EVERY))
                self._append(self.alone_ms(part))
                bar.advance(task, len(part))
        self._tell_of_restless(missing)

    def fastest(self, member: SpaceMember) -> SubnetSpec | None:
        """Find the subnet of the least predicted latency; measures blocks that are not known yet where they are few."""
        found = super().fastest(member)
        if found is None and self._may_measure:
            blocks: list[PlacedBlock] = []

            def note(spec: BlockSpec, hw: int) -> float:
                blocks.append((spec, hw))
                return 0.0

            fastest_subnet(member, note)
            if len(self.unmeasured(blocks)) <= FEW_BLOCKS:
                self.ensure(blocks)
                found = super().fastest(member)
        return found

    def _tell_of_restless(self, measured: Mapping[str, object]) -> None:
        """Say once how many of what was measured may be told too slow, where these are more than a few."""
        restless = len(self._restless & measured.keys())
        if restless > RESTLESS * len(measured) and not self._has_told:
            self._has_told = True
            log.warning(
                f"platform {self.name}: {restless} of {len(measured)} blocks or networks were never timed at a still "
                "moment, since something else slows this core down, and may be told up to twice too slow; stop other "
                f"programs, and remove {self.path} to measure again"
            )

    def _append(self, measured_ms: Mapping[str, float]) -> None:
        """Save new entries behind those of the file, so that the state of the earlier ones stays as it was.

        What other jobs measured meanwhile stays, and counts: a block has one latency for all of them.
        """
        table, known = self.predictor.table, self.known_table().entries
        table.entries = {**known, **table.entries, **measured_ms, **known}
        table.save(self.path)

    def require_room(self, program: Program, texts: Mapping[str, str] | None = None) -> None:
        """Refuse a program that does not fit the device, with an `ExportError`; `texts` are its file's metadata."""

    def compile(self, program: Program) -> bytes:
        """Write a program as a file of the runtime."""
        return self.runtime.write(program, options=FileOptions(packed_channels=self.packed_channels))

    def compile_random(self, blocks: Sequence[PlacedBlock]) -> bytes:
        """Write blocks in a row, with random weights, as a file of the runtime."""
        return self.compile(random_program(blocks, self.weight_limit))

    def compile_block(self, block: PlacedBlock) -> bytes:
        """Write a block, with random weights, as near as can be to how it runs within a network."""
        return self.runtime.compile_block(block, self.packed_channels, self.weight_limit)

    def time_models(self, models: Mapping[str, bytes], repeats: int) -> dict[str, Timing]:
        """Time files of the runtime where the platform is."""
        return self.place.time_models(self.runtime, models, repeats)

    def measured_ms(self, models: Mapping[str, Program | bytes], repeats: int = 20) -> dict[str, float]:
        """Measure the latency in ms of networks: programs, or files of the runtime."""
        files = {name: self.compile(m) if isinstance(m, Program) else m for name, m in models.items()}
        return {name: timing.latency_ms for name, timing in self.time_models(files, repeats).items()}

    def alone_ms(self, blocks: Mapping[str, PlacedBlock]) -> dict[str, float]:
        """Measure the latency in ms of blocks by themselves."""
        self._look()
        with doing(BLOCKS, times=len(blocks)):
            files = {key: self.compile_block(block) for key, block in blocks.items()}
            found_ms = self._noted_ms(files, BLOCK_REPEATS)
            self.measure_conversions(blocks.values())
        return {key: self.net_ms(blocks[key], ms) for key, ms in found_ms.items()}

    def _look(self) -> None:
        """Look, once in a process, how fast this core can be; told apart, so that a plan counts it once a chain."""
        if isinstance(self.place, ThisMachine) and not Stillness.has_looked():
            with doing(LOOK):
                Stillness()

    def _noted_ms(self, files: Mapping[str, bytes], repeats: int) -> dict[str, float]:
        """Measure the latency in ms of files, and note those that had no still moment."""
        found = self.time_models(files, repeats)
        self._restless |= {name for name, timing in found.items() if not timing.was_still}
        return {name: timing.latency_ms for name, timing in found.items()}

    def net_ms(self, block: PlacedBlock, measured_ms: float) -> float:
        """Subtract from a block's latency in ms what its file does besides, but never more than nine tenths of it."""
        self.measure_conversions([block])
        besides_ms = sum(share * self._conversions[shape] for shape, share in self.runtime.conversions(block))
        return round(max(measured_ms - besides_ms, 0.1 * measured_ms), 6)

    def measure_conversions(self, blocks: Iterable[PlacedBlock]) -> None:
        """Measure, once, what running files takes that only convert a tensor `(C, H, W)` to integers and back."""
        shapes = {shape for block in blocks for shape, _ in self.runtime.conversions(block)} - self._conversions.keys()
        if shapes:
            named = {f"empty_{'_'.join(map(str, shape))}": shape for shape in sorted(shapes)}
            files = {name: self.compile(empty_program(shape)) for name, shape in named.items()}
            least_ms, still = dict.fromkeys(named, math.inf), 0
            for _ in range(CALLS):
                found = self.time_models(files, CONVERSION_REPEATS)
                least_ms = {name: min(ms, found[name].latency_ms) for name, ms in least_ms.items()}
                still += all(timing.was_still for timing in found.values())
                if still == STILL_CALLS:
                    break
            self._conversions |= {shape: least_ms[name] for name, shape in named.items()}

    def _fixed_ms(self, superspace: Superspace, resolution: int) -> float:
        if self.predictor.fixed_latency_ms is not None:  # a wish, not a stopgap: here the blocks could be measured
            return self.predictor.fixed_ms(resolution)
        return super()._fixed_ms(superspace, resolution)


def _whole_networks(superspace: Superspace) -> dict[str, list[PlacedBlock]]:
    """The networks that correct sums of blocks, the same ones each time, as their blocks."""
    networks = sample_networks(superspace, Random(0), WHOLE_NETWORKS)
    return {name: subnet_blocks(*network) for name, network in networks.items()}
