"""Job profile: measures a platform's blocks and networks, fits a predictor, and tells its error on unseen networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from spaceevo.artifacts import Component, fingerprint
from spaceevo.artifacts.values import Amount
from spaceevo.errors import ConfigError, choices
from spaceevo.latency.accuracy import PredictionError
from spaceevo.latency.kernels import fit_kernels
from spaceevo.latency.nn_meter import blocks_ms, write_package
from spaceevo.latency.roofline import Roofline, family_of
from spaceevo.latency.table import LatencyTable
from spaceevo.latency.whole import WholeNetworks
from spaceevo.platforms.base import Platform
from spaceevo.platforms.measuring import MeasuringPlatform
from spaceevo.space.operators import Network, sample_networks
from spaceevo.space.placement import PlacedBlock, subnet_blocks
from spaceevo.space.superspace import Superspace
from spaceevo.stages.job import Input, Outcome, platform_input
from spaceevo.stages.measured import check_unseen, measured_platform, tables_command
from spaceevo.stages.profile_timings import BLOCKS, NETWORKS, UNSEEN, ProfileTimings, Timed, sample_blocks
from spaceevo.stages.selection import SuperspaceJob
from spaceevo.stages.settings import Count, Seed, SuperspaceSettings


@dataclass(frozen=True)
class ProfileRecipe:
    """Says how much is measured."""

    blocks: Count  # measured by themselves, for the model
    networks: Count  # measured whole, for the correction
    unseen: Count  # networks measured whole, of other spaces, for the error
    passes: Count  # through everything, at most
    # of profiling, which no pass after the fourth is begun to exceed; None sets no limit
    cpu_seconds: Amount | None
    repeats: Count  # timings in a pass


@dataclass(frozen=True, kw_only=True)
class ProfileSettings(SuperspaceSettings):
    """Says which platform is measured."""

    platform: Component[Platform]  # the platform
    seed: Seed  # decides which blocks and networks are sampled
    recipe: ProfileRecipe  # how much is measured


@dataclass(frozen=True)
class Sample:
    """Holds what is measured, by name."""

    blocks: Mapping[str, PlacedBlock]  # random blocks
    networks: Mapping[str, Network]  # random networks
    unseen: Mapping[str, Network]  # random networks of other spaces

    @classmethod
    def of(cls, superspace: Superspace, seed: int, recipe: ProfileRecipe) -> Sample:
        """Sample blocks and networks; a `ConfigError` where no block is of a family that the networks have."""
        rng = Random(seed)
        blocks = sample_blocks(superspace, rng, recipe.blocks)
        networks = sample_networks(superspace, rng, recipe.networks)
        unseen = sample_networks(superspace, rng, recipe.unseen, besides=networks.values())
        whole = [*networks.values(), *unseen.values()]
        needed = {family_of(spec) for network in whole for spec, _ in subnet_blocks(*network)}
        if missing := sorted(needed - {family_of(spec) for spec, _ in blocks.values()}):
            raise ConfigError(f"recipe.profile.blocks = {len(blocks)} leaves out {choices(missing)}; set it higher")
        return cls(blocks, networks, unseen)


class ProfileJob(SuperspaceJob[ProfileSettings]):
    """Measures random blocks and networks, fits a predictor into the platform's table, and checks it."""

    name = "profile"
    main_figure = "within_10_percent"

    @cached_property
    def platform(self) -> MeasuringPlatform:
        """The platform, with its table as it was found; one that cannot be measured is a `ConfigError`."""
        return measured_platform(self.workspace.make, self.settings.platform)

    def inputs(self) -> Mapping[str, Input]:
        """Return the platform's table, which this job writes itself."""
        return {"platform": platform_input(self.platform)}

    def work(self) -> Outcome:
        """Measure, fit, check, write."""
        settings, output, platform = self.settings, self.workspace.output, self.platform
        sample = Sample.of(self.superspace, settings.seed, settings.recipe)
        timings = self._measure(platform, sample)
        timed = timings.collections
        table, block_error = _fit(platform, timed, sample)
        title = f"{self.superspace.name}, {platform.name}"
        error, written = check_unseen(table, timed[UNSEEN], sample.unseen, output, title)
        table.provenance = {**platform.provenance, "dispersion": timed[BLOCKS].dispersion, **error.figures()}
        platform.replace_table(table)
        outputs = {"table": platform.path, **written}
        package = f"{platform.name}_{self.superspace.name}"
        kernel_error, outputs["nn_meter"] = _write_kernels(output / "nn_meter", package, table, sample.blocks)
        figures = {
            **error.figures(),
            "profiling_cpu_seconds": round(timings.profiling_s, 1),
            "checking_cpu_seconds": round(timed[UNSEEN].cpu_seconds, 1),
            "measured_blocks": len(sample.blocks),
            "measured_networks": len(sample.networks),
            "block_mape_percent": round(block_error.mape_percent, 2),
            "kernel_mape_percent": round(kernel_error.mape_percent, 2),
            "scale": table.correction.scale,
            "ms_per_mparam": table.correction.ms_per_mparam,
            "dispersion": timed[NETWORKS].dispersion,
            **platform.provenance,
        }
        return Outcome(figures, outputs, self.next_command(), growing=("table",))

    def next_command(self) -> str:
        """Return the command that takes the latencies into look-up tables, where there are blocks to make them of."""
        return tables_command(self.workspace, self.superspace)

    def _measure(self, platform: MeasuringPlatform, sample: Sample) -> ProfileTimings:
        """Time everything, or what an interrupted run of the same settings on the same machine had not timed."""
        recipe, file = self.settings.recipe, self.workspace.output / "timings.json"
        if self.workspace.force:
            file.unlink(missing_ok=True)
        deciding = fingerprint([self.identity, platform.provenance | {"date": ""}])
        timings = ProfileTimings(platform, file, deciding, recipe.passes, recipe.cpu_seconds)
        timings.measure({BLOCKS: sample.blocks, NETWORKS: sample.networks, UNSEEN: sample.unseen}, recipe.repeats)
        return timings


def _fit(
    platform: MeasuringPlatform, timed: Mapping[str, Timed], sample: Sample
) -> tuple[LatencyTable, PredictionError]:
    """The platform's table with the measured blocks, a model and its error on them, and a correction by networks."""
    blocks = sample.blocks
    platform.measure_conversions(blocks.values())
    alone_ms = {key: platform.net_ms(blocks[key], ms) for key, ms in timed[BLOCKS].latency_ms.items()}
    in_order_ms = [alone_ms[key] for key in blocks]
    model = Roofline.fit(list(blocks.values()), in_order_ms)
    known = platform.predictor.table.entries if platform.is_local else {}
    table = LatencyTable({**known, **alone_ms}, model=model)
    placed = [subnet_blocks(*network) for network in sample.networks.values()]
    latency_ms = timed[NETWORKS].latency_ms
    table.correction = WholeNetworks.of(table, placed, [latency_ms[name] for name in sample.networks]).correction()
    return table, PredictionError.of([model.block_ms(*block) for block in blocks.values()], in_order_ms)


def _write_kernels(
    folder: Path, name: str, table: LatencyTable, blocks: Mapping[str, PlacedBlock]
) -> tuple[PredictionError, Path]:
    """Write the same blocks, within networks, as a package of kernel predictors for nn-Meter."""
    corrected = [table.correction.block_ms(table.entries[key], *block) for key, block in blocks.items()]
    kernels = fit_kernels(list(blocks.values()), corrected)
    meta_file = write_package(folder, name, kernels)
    found_ms = blocks_ms(kernels, blocks, name)
    return PredictionError.of([found_ms[key] for key in blocks], corrected), meta_file
