"""Timings of a profile: random blocks and networks, and a file of their latencies from which a killed run goes on."""

import itertools
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from spaceevo.artifacts import fingerprint, parse_record, read_sealed_json, write_bytes, write_sealed_json
from spaceevo.errors import CheckpointError
from spaceevo.latency.roofline import family_of
from spaceevo.platforms.measuring import MeasuringPlatform
from spaceevo.space.operators import Network, sample_networks
from spaceevo.space.placement import PlacedBlock, block_key, subnet_blocks
from spaceevo.space.superspace import Superspace
from spaceevo.terminal import console, doing, progress

BLOCKS, NETWORKS, UNSEEN = "blocks", "networks", "unseen networks"  # What is timed
MADE, TIMED = "models made", "timings of models"  # Kinds of work
BLOCKS_A_GROUP = 60
NETWORKS_A_GROUP = 12
BLOCKS_EVERY = 4
"""Blocks take part in every fourth pass: a model is fitted to many of them, which evens their errors out."""
LEAST_PASSES = 4
"""Passes that no budget cuts: where making the models takes all of it, one timing of each would be left."""


Collections = Mapping[str, Mapping[str, PlacedBlock] | Mapping[str, Network]]
"""What is timed (`blocks`, `networks`, `unseen networks`) → name → block or network."""


def sample_blocks(superspace: Superspace, rng: Random, count: int) -> dict[str, PlacedBlock]:
    """Sample blocks of random networks by key, as many of each family as there are, or its even share."""
    families = defaultdict[str, dict[str, PlacedBlock]](dict)
    for network in sample_networks(superspace, rng, count).values():
        for block in subnet_blocks(*network):
            families[family_of(block[0])][block_key(*block)] = block
    pools = [rng.sample(list(family.items()), len(family)) for family in families.values()]
    rounds = itertools.zip_longest(*pools)
    sampled = [item for row in rounds for item in row if item is not None]
    return dict(sampled[:count])


@dataclass
class Timed:
    """Holds the timings of one collection."""

    cpu_seconds: float = 0.0  # CPU time spent, making the models included
    # name → latency in ms and dispersion of each pass
    timings: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    making_seconds: float = 0.0  # of `cpu_seconds`: making the models, once

    @property
    def latency_ms(self) -> dict[str, float]:
        """The latency of each model in ms: the mean over the faster half of its passes.

        A model differs by some percent from session to session, so that the least of them flatters it; the slower half
        has what else ran on the core.
        """
        halves = {name: sorted(ms for ms, _ in taken)[: (len(taken) + 1) // 2] for name, taken in self.timings.items()}
        return {name: statistics.fmean(half) for name, half in halves.items()}

    @property
    def timing_s(self) -> float:
        """CPU time spent on timing alone."""
        return self.cpu_seconds - self.making_seconds

    @property
    def dispersion(self) -> float:
        """The median, over all models and passes, of the median timing over the least."""
        return round(statistics.median(dispersion for taken in self.timings.values() for _, dispersion in taken), 4)


@dataclass
class _Record:  # the file of the timings
    fingerprint: str
    collections: dict[str, Timed] = field(default_factory=dict)


class ProfileTimings:
    """Times blocks and networks pass by pass into a file, so that a killed run goes on.

    A pass goes through blocks and networks alike, so that what disturbs the machine for a while disturbs one pass only.
    Timings in the file under another `fingerprint`, a hash of all that decides them, are not taken up. No pass after
    the first `LEAST_PASSES` is begun that would exceed the `budget_s` of CPU time for all but the unseen networks.
    """

    def __init__(
        self, platform: MeasuringPlatform, path: Path, fingerprint: str, passes: int, budget_s: float | None = None
    ) -> None:
        self.platform = platform
        self.path = path
        self.passes = passes
        self.budget_s = budget_s
        self.record = _Record(fingerprint)
        try:
            content = read_sealed_json(path) if path.exists() else {}
            if isinstance(content, dict) and content.get("fingerprint") == fingerprint:
                self.record = parse_record(_Record, content, path)
        except CheckpointError as error:
            console.print(f"{error}; all is timed again")
        self.collections = self.record.collections

    def measure(self, collections: Collections, repeats: int) -> None:
        """Make and time the models that miss a pass, each so many times in a pass."""
        for what in collections:
            self.collections.setdefault(what, Timed())
        todo = [self._parts(collections, number) for number in range(self.passes)]
        with progress() as bar:
            task = bar.add_task(f"profiling {self.platform.machine}", total=sum(map(len, todo)))
            for done, parts in enumerate(todo):
                if parts and self._is_spent(done):
                    break
                for what, part in parts:
                    bar.update(task, description=f"{what} on {self.platform.machine}")
                    self._measure(self.collections[what], part, repeats)
                    bar.advance(task)
        shutil.rmtree(self.path.parent / "models", ignore_errors=True)

    @property
    def profiling_s(self) -> float:
        """CPU time spent on all but the check, making the models included."""
        return sum(timed.cpu_seconds for what, timed in self.collections.items() if what != UNSEEN)

    def _is_spent(self, done: int) -> bool:
        """Whether another pass, at the mean cost of those done, would exceed the budget; models are made only once."""
        if done < LEAST_PASSES or self.budget_s is None:
            return False
        next_s = self.collections[NETWORKS].timing_s / done
        if done % BLOCKS_EVERY == 0:
            next_s += self.collections[BLOCKS].timing_s / (done / BLOCKS_EVERY)
        return self.profiling_s + next_s > self.budget_s

    def _measure(self, timed: Timed, part: Mapping[str, PlacedBlock | Network], repeats: int) -> None:
        started = time.process_time()
        is_first = not timed.timings.keys() & part.keys()
        with doing(MADE, len(part)) if is_first else nullcontext():
            models = {name: self._model(name, each) for name, each in part.items()}
        if is_first:
            timed.making_seconds += time.process_time() - started
        with doing(TIMED, len(part)):
            found = self.platform.time_models(models, repeats)
        for name, timing in found.items():
            timed.timings.setdefault(name, []).append((round(timing.latency_ms, 6), timing.dispersion))
        timed.cpu_seconds += time.process_time() - started
        write_sealed_json(self.path, asdict(self.record))

    def _model(self, name: str, part: PlacedBlock | Network) -> bytes:
        """Write a block or network, or read it where an earlier pass has left it: all together are large."""
        path = self.path.parent / "models" / f"{fingerprint(name)}.{self.platform.runtime.format}"
        if not path.exists():
            if isinstance(part, Network):
                file = self.platform.compile_random(subnet_blocks(*part))
            else:
                file = self.platform.compile_block(part)
            write_bytes(path, self.platform.runtime.prepare(file))
        return path.read_bytes()

    def _parts(self, collections: Collections, number: int) -> list[tuple[str, dict[str, PlacedBlock | Network]]]:
        """What misses this pass, in groups that are timed side by side, in random order."""
        rng = Random(number)
        parts: list[tuple[str, dict[str, PlacedBlock | Network]]] = []
        for what, models in collections.items():
            of_blocks = what == BLOCKS
            if of_blocks and number % BLOCKS_EVERY:
                continue
            done = number // BLOCKS_EVERY if of_blocks else number
            timings = self.collections[what].timings
            names = [name for name in models if len(timings.get(name, ())) <= done]
            rng.shuffle(names)
            size = BLOCKS_A_GROUP if of_blocks else NETWORKS_A_GROUP
            parts += [(what, {n: models[n] for n in names[i : i + size]}) for i in range(0, len(names), size)]
        rng.shuffle(parts)
        return parts
