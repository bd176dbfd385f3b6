"""Stage profile: measure a platform's blocks and networks, fit a predictor, and tell its error on unseen networks."""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from spaceevo.artifacts import atomic_path, fingerprint, read_json, write_json
from spaceevo.errors import ConfigError, choices
from spaceevo.latency.accuracy import PredictionError
from spaceevo.latency.kernels import fit_kernels, kernels_ms
from spaceevo.latency.nn_meter import write_package
from spaceevo.latency.predictor import BlockLatency
from spaceevo.latency.roofline import Correction, Roofline, family_of, mparams_of
from spaceevo.latency.table import LatencyTable
from spaceevo.platforms.measuring import MeasuringPlatform
from spaceevo.report.latency import draw_predictions
from spaceevo.runtimes.random_program import random_program
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import sample_member, sample_subnet
from spaceevo.space.placement import PlacedBlock, block_key, subnet_blocks
from spaceevo.space.superspace import SpaceMember, Superspace
from spaceevo.stages.base import Context, Outcome, StageCallback, write_csv
from spaceevo.terminal import progress

BLOCKS_A_GROUP, NETWORKS_A_GROUP = 60, 12
BLOCKS_EVERY = 2
"""Blocks take part in every second pass: a model is fitted to many of them, which evens their errors out."""
Network = tuple[SpaceMember, SubnetSpec]


def sample_networks(
    superspace: Superspace, rng: Random, count: int, besides: Iterable[Network] = ()
) -> dict[str, Network]:
    """Random subnets by name, of random spaces, none of which is one of `besides`."""
    taken, networks = {str(member) for member, _ in besides}, dict[str, Network]()
    while len(networks) < count:
        member = sample_member(superspace, rng)
        # A small superspace may not have that many spaces.
        if str(member) not in taken or len(taken) >= superspace.size // 2:
            spec = sample_subnet(member, rng)
            networks[f"{member} {spec}"] = (member, spec)
    return networks


def sample_blocks(superspace: Superspace, rng: Random, count: int) -> dict[str, PlacedBlock]:
    """Blocks of random networks by key, as many of each family as there are, or its even share."""
    families = defaultdict[str, dict[str, PlacedBlock]](dict)
    for network in sample_networks(superspace, rng, count).values():
        for block in subnet_blocks(*network):
            families[family_of(block[0])][block_key(*block)] = block
    pools = [rng.sample(list(family.items()), len(family)) for family in families.values()]
    rounds = itertools.zip_longest(*pools)
    drawn = [item for row in rounds for item in row if item is not None]
    return dict(drawn[:count])


def _check_families(blocks: Mapping[str, PlacedBlock], networks: Iterable[Network]) -> None:
    """Raise where networks have blocks of families that no sampled block tells anything of."""
    needed = {family_of(spec) for network in networks for spec, _ in subnet_blocks(*network)}
    if missing := sorted(needed - {family_of(spec) for spec, _ in blocks.values()}):
        raise ConfigError(f"recipe.profile.blocks = {len(blocks)} leaves out {choices(missing)}; set it higher")


class _Measurements:
    """Timings in a file, pass by pass, so that a killed run goes on; the least of the passes counts.

    A pass goes through blocks and networks alike, so that what disturbs the machine for a while disturbs one pass only.

    Args:
        platform: what measures.
        path: file of the timings.
        mark: fingerprint of all that decides them; timings of another are not taken up.
        passes: at most so many.
        budget_s: CPU time of all but the unseen networks that a further pass would not exceed; None sets no limit.
    """

    def __init__(
        self, platform: MeasuringPlatform, path: Path, mark: str, passes: int, budget_s: float | None = None
    ) -> None:
        self.platform, self.path, self.passes, self.budget_s = platform, path, passes, budget_s
        saved = read_json(path) if path.exists() else {}
        self.state: dict[str, Any] = saved if saved.get("mark") == mark else {"mark": mark}

    def measure(self, collections: Mapping[str, Mapping[str, Any]], repeats: int) -> None:
        """Make and time the models that miss a pass.

        Args:
            collections: what → name → block or network.
            repeats: timings of each in a pass.
        """
        for what in collections:
            self.state.setdefault(what, {"cpu_seconds": 0.0, "timings": {}})
        todo = [self._parts(collections, number) for number in range(self.passes)]
        with progress() as bar:
            task = bar.add_task(f"profiling {self.platform.machine}", total=sum(map(len, todo)))
            for done, parts in enumerate(todo):
                if parts and self._is_spent(done):
                    break
                for what, part in parts:
                    bar.update(task, description=f"{what} on {self.platform.machine}")
                    self._measure(self.state[what], part, repeats)
                    bar.advance(task)
        shutil.rmtree(self.path.parent / "models", ignore_errors=True)

    @property
    def profiling_s(self) -> float:
        """CPU time spent on all but the check, making the models included."""
        return self.cpu_seconds("blocks") + self.cpu_seconds("networks")

    def _is_spent(self, done: int) -> bool:
        """Whether a pass of the mean cost of those done would exceed the budget."""
        return bool(done) and self.budget_s is not None and self.profiling_s * (done + 1) / done > self.budget_s

    def _measure(self, state: dict[str, Any], part: Mapping[str, Any], repeats: int) -> None:
        started = time.process_time()
        models = _Models(self.platform, part, self.path.parent / "models")
        for name, timing in self.platform.time_models(models, repeats).items():
            state["timings"].setdefault(name, []).append([round(timing.latency_ms, 6), timing.dispersion])
        state["cpu_seconds"] += time.process_time() - started
        write_json(self.path, self.state)

    def _parts(self, collections: Mapping[str, Mapping[str, Any]], number: int) -> list[tuple[str, dict[str, Any]]]:
        """What misses this pass, in groups that are timed side by side, in random order."""
        rng, parts = Random(number), list[tuple[str, dict[str, Any]]]()
        for what, models in collections.items():
            timings, done = self.state[what]["timings"], number
            if what == "blocks":
                if number % BLOCKS_EVERY:
                    continue
                done //= BLOCKS_EVERY
            names = [name for name in models if len(timings.get(name, ())) <= done]
            rng.shuffle(names)
            size = BLOCKS_A_GROUP if what == "blocks" else NETWORKS_A_GROUP
            parts += [(what, {n: models[n] for n in names[i : i + size]}) for i in range(0, len(names), size)]
        rng.shuffle(parts)
        return parts

    def latency_ms(self, what: str) -> dict[str, float]:
        """The least latency of each model in ms."""
        return {name: min(ms for ms, _ in taken) for name, taken in self.state[what]["timings"].items()}

    def dispersion(self, what: str) -> float:
        """Median over all models and passes of the median timing over the least."""
        taken = self.state[what]["timings"].values()
        return round(statistics.median(float(dispersion) for passes in taken for _, dispersion in passes), 4)

    def cpu_seconds(self, what: str) -> float:
        """CPU time spent so far, making the models included."""
        return float(self.state[what]["cpu_seconds"])


class _Models(Mapping[str, bytes]):
    """Blocks and networks as models, each made once, when first asked for, and kept in a folder: they are large."""

    def __init__(self, platform: MeasuringPlatform, items: Mapping[str, Any], folder: Path) -> None:
        self.platform, self.items_by_name, self.folder = platform, items, folder

    def __getitem__(self, name: str) -> bytes:
        path = self.folder / f"{fingerprint(name)}.{self.platform.runtime.format}"
        if not path.exists():
            with atomic_path(path) as temporary:
                temporary.write_bytes(self.platform.runtime.prepare(self._compile(self.items_by_name[name])))
        return path.read_bytes()

    def _compile(self, item: Any) -> bytes:
        if isinstance(item[0], SpaceMember):
            return self.platform.compile(random_program(subnet_blocks(*item)))
        return self.platform.compile_block(item)

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_by_name)

    def __len__(self) -> int:
        return len(self.items_by_name)


class ProfileStage(StageCallback):
    """Measures random blocks and networks, fits a predictor into the platform's table, and checks it."""

    name = "profile"
    main_figure = "within_10_percent"

    def work(self, context: Context) -> Outcome:
        """Measure, fit, check, write."""
        platform, recipe, superspace = context.platform, context.recipe, context.superspace
        if not isinstance(platform, MeasuringPlatform):
            raise ConfigError(f"platform = {platform.name} cannot be measured; allowed: ort_cpu, tflite_cpu, adb")
        rng = Random(context.seed)
        blocks = sample_blocks(superspace, rng, context.count("blocks"))
        known = sample_networks(superspace, rng, context.count("networks"))
        unseen = sample_networks(superspace, rng, context.count("unseen"), besides=known.values())
        _check_families(blocks, [*known.values(), *unseen.values()])
        mark = fingerprint([platform.provenance | {"date": ""}, context.plain["superspace"], recipe, context.seed])
        budget_s = recipe["cpu_seconds"]
        measured = _Measurements(platform, context.output / "timings.json", mark, context.count("passes"), budget_s)
        measured.measure({"blocks": blocks, "networks": known, "unseen networks": unseen}, context.count("repeats"))
        table = self._fit(platform, measured, blocks, known)
        rows, error = self._check(table, measured, unseen)
        table.provenance = {**platform.provenance, "dispersion": measured.dispersion("blocks"), **error.figures()}
        table.save(platform.path)
        write_csv(context.output / "unseen.csv", rows)
        columns = [[row[column] for row in rows] for column in ("predicted_ms", "measured_ms")]
        draw_predictions(context.output / "unseen.png", columns[0], columns[1], f"{superspace.name}, {platform.name}")
        outputs = {"table": platform.path, "unseen": context.output / "unseen.csv"}
        outputs |= {"picture": context.output / "unseen.png"}
        kernel_error, outputs["nn_meter"] = self._write_kernels(context, table, blocks)
        figures = {
            **error.figures(),
            "profiling_cpu_seconds": round(measured.profiling_s, 1),
            "checking_cpu_seconds": round(measured.cpu_seconds("unseen networks"), 1),
            "measured_blocks": len(blocks),
            "measured_networks": len(known),
            "block_mape_percent": round(self._block_error(table, blocks).mape_percent, 2),
            "kernel_mape_percent": round(kernel_error.mape_percent, 2),
            "scale": table.correction.scale,
            "ms_per_mparam": table.correction.ms_per_mparam,
            "dispersion": measured.dispersion("networks"),
            **platform.provenance,
        }
        next_command = context.command("space_search", f"platform={platform.name}", "latency_constraint=<ms>")
        return Outcome(figures, outputs, next_command)

    def _write_kernels(
        self, context: Context, table: LatencyTable, blocks: Mapping[str, PlacedBlock]
    ) -> tuple[PredictionError, Path]:
        """Write the same blocks, within networks, as a package of kernel predictors for nn-Meter."""
        placed = list(blocks.values())
        corrected = [table.correction.block_ms(table.entries[key], *block) for key, block in blocks.items()]
        kernels = fit_kernels(placed, corrected)
        name = f"{context.platform.name}_{context.superspace.name}"
        meta_file = write_package(context.output / "nn_meter", name, kernels)
        return PredictionError.of([kernels_ms(kernels, *block) for block in placed], corrected), meta_file

    def _fit(
        self,
        platform: MeasuringPlatform,
        measured: _Measurements,
        blocks: Mapping[str, PlacedBlock],
        networks: Mapping[str, Network],
    ) -> LatencyTable:
        """The platform's table with the measured blocks, a model of them, and a correction by whole networks."""
        alone_ms = {key: platform.net_ms(blocks[key], ms) for key, ms in measured.latency_ms("blocks").items()}
        model = Roofline.fit(list(blocks.values()), [alone_ms[key] for key in blocks])
        known = platform.predictor.table.entries if platform.is_local else {}
        table = LatencyTable({**known, **alone_ms}, model=model)
        alone = BlockLatency(table, interpolate=True)
        placed = [subnet_blocks(*network) for network in networks.values()]
        latency_ms = measured.latency_ms("networks")
        table.correction = Correction.fit(
            [alone.blocks_ms(each) for each in placed],
            [mparams_of(each) for each in placed],
            [latency_ms[name] for name in networks],
        )
        return table

    def _check(
        self, table: LatencyTable, measured: _Measurements, unseen: Mapping[str, Network]
    ) -> tuple[list[dict[str, Any]], PredictionError]:
        predictor, latency_ms = BlockLatency(table, interpolate=True), measured.latency_ms("unseen networks")
        predicted = [predictor.predict(*network) for network in unseen.values()]
        found = [latency_ms[name] for name in unseen]
        rows = [
            {"space": str(member), "subnet": str(spec), "predicted_ms": expected, "measured_ms": actual}
            for (member, spec), expected, actual in zip(unseen.values(), predicted, found, strict=True)
        ]
        return rows, PredictionError.of(predicted, found)

    def _block_error(self, table: LatencyTable, blocks: Mapping[str, PlacedBlock]) -> PredictionError:
        assert table.model is not None
        fitted = [table.model.block_ms(*block) for block in blocks.values()]
        return PredictionError.of(fitted, [table.entries[key] for key in blocks])
