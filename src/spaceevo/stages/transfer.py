"""Job transfer: tells a platform from another runtime of the same machine that was profiled, by a few networks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Annotated

from annotated_types import Ge, Le

from spaceevo.artifacts import Component, Plain, fingerprint
from spaceevo.artifacts.values import MOST
from spaceevo.artifacts.work import Amount, Extent
from spaceevo.errors import ConfigError, SpaceEvoError, TableError, choices
from spaceevo.latency.roofline import family_of
from spaceevo.latency.transfer import Transfer
from spaceevo.platforms.base import Platform
from spaceevo.platforms.measuring import MeasuringPlatform
from spaceevo.space.description import superspaces
from spaceevo.space.operators import Network, sample_networks
from spaceevo.space.placement import subnet_blocks
from spaceevo.space.superspace import Superspace
from spaceevo.stages.job import Input, Outcome, override_key, platform_input
from spaceevo.stages.measured import check_unseen, measured_platform, tables_command
from spaceevo.stages.profile_timings import MADE, NETWORKS, TIMED, UNSEEN, ProfileTimings
from spaceevo.stages.selection import SuperspaceJob
from spaceevo.stages.settings import Count, Seed, SuperspaceSettings
from spaceevo.terminal import console

LEAST = 3  # Networks: one is told by two others
ORIGIN = "transferred_from"  # in a table's provenance
GROUP = "platform@source"  # the word that chooses the source
OF_SOURCE = (GROUP, "source.")  # how words that say something of it begin
MEASURED_BY = ("machine", "runtime", "version", "packed_channels", "superspace")  # platforms that share these are one


@dataclass(frozen=True)
class TransferRecipe:
    """Says how much is measured."""

    networks: Annotated[int, Ge(LEAST), Le(MOST)]  # measured whole, for the factors
    unseen: Count  # networks measured whole, of other spaces, for the error
    passes: Count  # through everything
    repeats: Count  # timings in a pass


@dataclass(frozen=True, kw_only=True)
class TransferSettings(SuperspaceSettings):
    """Says which platform is told from which."""

    platform: Component[Platform]  # the platform, of which no block is measured
    source: Component[Platform]  # a platform of the same machine that was profiled
    seed: Seed  # decides which networks are sampled
    recipe: TransferRecipe  # how much is measured


class TransferJob(SuperspaceJob[TransferSettings]):
    """Measures some networks whole, turns another platform's model into this one's, and checks it on unseen ones."""

    name = "transfer"
    main_figure = "within_10_percent"

    def check(self) -> None:
        """Tell also of a source's superspace that there is not."""
        super().check()
        name, options = self.settings.source.node.get("superspace"), self.workspace.commands.options
        own = {file.stem for folder in options[1::2] for file in Path(folder, "superspace").glob("*.yaml")}
        known = {*superspaces(), *own, self.superspace.name}
        if name is not None and name not in known:
            raise ConfigError(f"source.superspace = {name} is an unknown superspace; allowed: {choices(sorted(known))}")

    @cached_property
    def platform(self) -> MeasuringPlatform:
        """The platform, with its table as it was found; one that cannot be measured is a `ConfigError`."""
        return measured_platform(self.workspace.make, self.settings.platform)

    def inputs(self) -> Mapping[str, Input]:
        """Return the source's table, and the platform's, which this job writes itself."""
        platform = self.platform  # the first that is told of
        return {"source": platform_input(self.source), "platform": platform_input(platform)}

    def amounts(self) -> Mapping[str, Amount]:
        """Return the networks that are made, and how often one is timed."""
        recipe = self.settings.recipe
        networks = recipe.networks + recipe.unseen
        return {MADE: Amount(networks), TIMED: Amount(recipe.passes * networks)}

    def reduced(self, extent: Extent) -> Mapping[str, Plain]:
        """Return settings for a few networks, whose table is not the user's."""
        return {
            "recipe.networks": LEAST,
            "recipe.unseen": LEAST,
            "recipe.passes": 1 + extent.repeats,
            "platform.table": "null",
        }

    def work(self) -> Outcome:
        """Measure, fit, check, write."""
        recipe, output = self.settings.recipe, self.workspace.output
        platform, source = self.platform, self.source
        known, origin = source.predictor.table, _origin(source, recipe.networks)
        console.print(
            f"platform {platform.name}: no block is measured; the model of {source.name} ({source.path}) is turned "
            f"into its model by {recipe.networks} networks"
        )
        rng = Random(self.settings.seed)
        networks = sample_networks(self.superspace, rng, recipe.networks)
        unseen = sample_networks(self.superspace, rng, recipe.unseen, besides=networks.values())
        timings = self._measure(platform, {NETWORKS: networks, UNSEEN: unseen})
        timed = timings.collections
        placed = [subnet_blocks(*network) for network in networks.values()]
        latency_ms = timed[NETWORKS].latency_ms
        found = Transfer.fit(known, placed, [latency_ms[name] for name in networks])
        table, dispersion = found.table, timed[NETWORKS].dispersion
        if platform.is_local:
            table.entries = dict(platform.predictor.table.entries)  # measured since an earlier transfer
        title = f"{self.superspace.name}, {platform.name} from {source.name}"
        error, written = check_unseen(table, timed[UNSEEN], unseen, output, title)
        table.provenance = {**platform.provenance, **origin, "dispersion": dispersion, **error.figures()}
        platform.replace_table(table)
        figures = {
            **error.figures(),
            "measuring_cpu_seconds": round(timings.profiling_s, 1),
            "checking_cpu_seconds": round(timed[UNSEEN].cpu_seconds, 1),
            **_told(found),
            "dispersion": dispersion,
            **origin,
            **platform.provenance,
        }
        return Outcome(figures, {"table": platform.path, **written}, self.next_command(), growing=("table",))

    def _measure(self, platform: MeasuringPlatform, collections: Mapping[str, Mapping[str, Network]]) -> ProfileTimings:
        """Time all, or what an interrupted run had not timed; timings of another source's run are as good."""
        recipe, file = self.settings.recipe, self.workspace.output / "timings.json"
        if self.workspace.force:
            file.unlink(missing_ok=True)
        deciding = {name: value for name, value in self.identity.items() if not name.startswith("source.")}
        timings = ProfileTimings(
            platform, file, fingerprint([deciding, platform.provenance | {"date": ""}]), recipe.passes
        )
        timings.measure(collections, recipe.repeats)
        return timings

    @cached_property
    def source(self) -> MeasuringPlatform:
        """The source, with its table as it was found.

        Raises:
            ConfigError: it is the platform itself, or cannot be measured.
            TableError: its table has no model of its own, or lacks families, or was measured elsewhere; or the
                platform's table has more than an earlier transfer left.
        """
        platform, component = self.platform, self.settings.source
        try:
            source = measured_platform(self.workspace.make, component, "source")
        except SpaceEvoError as error:
            error.args = (_of_source(str(error), component.node),)
            raise
        _require_another(source, platform, self._other_command())
        _require_model(source, self._profile_command(source.name))
        _require_machine(source, platform)
        _require_families(source, self.superspace)
        _require_unmeasured(platform)
        return source

    def _profile_command(self, name: str) -> str:
        """Write the command that profiles the source as it is given here."""
        words = [
            f"superspace={word.partition('=')[2]}"  # of which the blocks are, too
            if override_key(word) == "source.superspace"
            else word.replace("source.", "platform.", 1)
            for word in self._given
            if override_key(word).startswith("source.")
        ]
        return self.workspace.commands("profile", f"platform={name}", *words, without=self._of_platforms)

    def _other_command(self) -> str:
        """Write the command of a transfer between two runtimes of this machine."""
        words = ("platform=openvino_cpu", f"{GROUP}=ort_cpu")
        return self.workspace.commands("transfer", *words, without=self._of_platforms)

    @property
    def _of_platforms(self) -> tuple[str, ...]:
        """Settings of the platform and of the source that were given, by name."""
        return tuple(key for key in map(override_key, self._given) if key.startswith(("platform.", *OF_SOURCE)))

    def next_command(self) -> str:
        """Return the command that takes the latencies into look-up tables, as after a profile."""
        dropped = (key for key in map(override_key, self._given) if key.startswith(OF_SOURCE))
        return tables_command(self.workspace, self.superspace, tuple(dropped))

    @property
    def _given(self) -> tuple[str, ...]:
        return self.workspace.commands.given


def _of_source(text: str, names: Iterable[str]) -> str:
    """Say of the source what is said of a platform: name settings, e.g. `platform.table`, as the source's are set."""
    text = re.sub(rf"(?<![\w/.])platform\.({'|'.join(names)})\b", r"source.\1", text)
    return re.sub(r"(?<![\w/.])platform=", f"{GROUP}=", text)


def _origin(source: Platform, networks: int) -> dict[str, object]:
    """Say what a table was made of: which other one, as it was then, and how much was measured."""
    digest = source.table_state()["digest"]
    return {ORIGIN: source.name, "source_table": str(source.path), "source_digest": digest} | {
        "measured_blocks": 0,
        "measured_networks": networks,
    }


def _told(found: Transfer) -> dict[str, object]:
    """Say what was fitted, and how far networks are off by the others."""
    return {
        "common_factor": round(found.common, 4),
        "left_out_mape_percent": round(found.error.mape_percent, 2),
        "scale": found.table.correction.scale,
        "ms_per_mparam": found.table.correction.ms_per_mparam,
        "families": [{"family": name, "factor": round(factor, 4)} for name, factor in found.factors.items()],
    }


def _require_another(source: Platform, platform: MeasuringPlatform, command: str) -> None:
    """Refuse the platform itself as its source."""
    told = source.predictor.table.provenance
    alike = all(told.get(name) == platform.provenance.get(name) for name in MEASURED_BY)
    if alike or source.path == platform.path:
        raise ConfigError(
            f"source = {source.name} is platform = {platform.name} itself; allowed: another runtime of the same "
            f"machine, as in: {command}"
        )


def _require_model(source: Platform, command: str) -> None:
    """Refuse a source that was not profiled itself."""
    table = source.predictor.table
    if origin := table.provenance.get(ORIGIN):
        raise TableError(f"source = {source.name} was itself told from {origin} ({source.path}); set {GROUP}={origin}")
    if table.model is None:
        lacks = "has no fitted model" if source.path.exists() else "does not exist"
        raise TableError(f"source = {source.name} was not profiled: {source.path} {lacks}; make it with: {command}")


def _require_machine(source: Platform, platform: MeasuringPlatform) -> None:
    """Refuse a source that was measured elsewhere."""
    told, wanted = source.predictor.table.provenance, platform.provenance
    for name in ("machine", "instructions"):
        if told.get(name) != wanted.get(name):
            raise TableError(
                f"source = {source.name} was measured on {name} {told.get(name, 'unknown')} ({source.path}), "
                f"platform = {platform.name} is on {wanted.get(name)}; allowed: a platform of the same machine"
            )


def _require_families(source: Platform, superspace: Superspace) -> None:
    """Refuse a source whose model lacks families of the superspace."""
    model, searched = source.predictor.table.model, len(superspace.searched)
    members = [superspace.member([index] * searched, [0] * searched) for index in range(len(superspace.candidates))]
    blocks = [spec for member in members for spec, _ in subnet_blocks(member, member.smallest)]
    missing = sorted({family_of(spec) for spec in blocks if model is None or not model.knows(spec)})
    if missing:
        raise TableError(
            f"source = {source.name} ({source.path}) knows no {choices(missing)} of superspace {superspace.name}; "
            "set source.superspace to one whose profile has them"
        )


def _require_unmeasured(platform: MeasuringPlatform) -> None:
    """Refuse to put a poorer model in the place of what was measured of the platform itself."""
    table = platform.predictor.table
    if ORIGIN not in table.provenance and (table.entries or table.model is not None):
        fitted = " and a model of them" if table.model is not None else ""
        raise TableError(
            f"platform = {platform.name} has a table of its own, with measured blocks{fitted} ({platform.path}), "
            "which tells more than a transfer; set platform.table to a new file to try one all the same"
        )
