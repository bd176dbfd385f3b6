"""Job subnet_search: the front of a trained supernet, accuracy against latency, and the best subnet of each limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from spaceevo.artifacts import Component, Plain, SpaceChoice
from spaceevo.artifacts.work import Amount, Extent, Scale
from spaceevo.collectives.launcher import launched
from spaceevo.collectives.sharing import Ranks
from spaceevo.nn.evaluate import SubnetEvaluator
from spaceevo.platforms.base import Platform
from spaceevo.platforms.measuring import BLOCKS
from spaceevo.search.limits import Limit, kinds_of, limits_of
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import sample_member, sample_subnet
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.extraction import Extraction
from spaceevo.stages.fitness import SUBNETS, Fitness, by_text
from spaceevo.stages.front_files import TESTED, FrontFiles, merge_fronts
from spaceevo.stages.front_search import FrontSearch, SubnetSearchRecipe, expected_front
from spaceevo.stages.job import Input, Outcome, file_input, images_input, platform_input
from spaceevo.stages.selection import SupernetBasedJob
from spaceevo.stages.settings import (
    LatencyConstraint,
    LimitSettings,
    SupernetSettings,
    joined_limits,
    limits_for,
    limits_for_any,
)
from spaceevo.stages.subnet_figures import NO_PLATFORM, SubnetFigures
from spaceevo.terminal import console

MOST_DRAWN = 512  # subnets whose blocks are measured together, before the search asks for what else it meets


@dataclass(frozen=True, kw_only=True)
class SubnetSearchSettings(SupernetSettings):
    """Says which supernet is searched, and for which platforms and latencies."""

    platform: Component[Platform]  # the platform, where `platforms` lists none
    platforms: Mapping[str, Component[Platform]]  # several platforms by name
    latency_constraint: LatencyConstraint  # latency limits in ms
    limit: LimitSettings  # limits of other kinds, kept as well
    recipe: SubnetSearchRecipe  # how to search


class SubnetSearchJob(SupernetBasedJob[SubnetSearchSettings]):
    """Finds the front of a supernet's subnets on each platform, and the best subnet within each latency constraint."""

    name = "subnet_search"
    main_figure = "chosen_top1"
    is_parallel = True

    @cached_property
    def platforms(self) -> dict[str, Platform]:
        """The platforms to search for, by name; none where latency is not limited."""
        if not self._limits_latency:
            return {}
        listed = {name: self.workspace.make(component) for name, component in self.settings.platforms.items()}
        if listed:
            return listed
        platform = self.workspace.make(self.settings.platform)
        return {platform.name: platform}

    @property
    def _choice_file(self) -> Path:
        return self.workspace.layout.space_choice(self.superspace.name)

    @cached_property
    def _demands(self) -> tuple[Limit, ...]:
        """The limits besides latency that are asked for; none where there are none."""
        return joined_limits(None, self.settings.limit)

    @cached_property
    def _chosen_for(self) -> tuple[Limit, ...]:
        """The limits that the last space search was given; none where there was none."""
        if not self._choice_file.exists():
            return ()
        choice = SpaceChoice.read(self._choice_file)
        return limits_of(choice.limits) or tuple(Limit.of({"ms": ms}) for ms in choice.latency_constraints_ms)

    @property
    def _limits_latency(self) -> bool:
        """Whether a platform is asked for latencies: `auto` beside other limits sets none."""
        if self.settings.latency_constraint != "auto":
            return True
        return not self._demands and "ms" in kinds_of(self._chosen_for or [Limit.of({"ms": 1.0})])

    def check(self) -> None:
        """Tell also lists of limits that do not fit together."""
        super().check()
        limits_ms = limits_for_any(self.settings.latency_constraint)
        joined_limits(limits_ms, self.settings.limit)

    def inputs(self) -> Mapping[str, Input]:
        """Return weights, images, latencies, and the space search where it decides space or limits."""
        found = {**super().inputs(), **self.supernet_inputs(*((True, False) if self.settings.int8 else (False,)))}
        is_auto = any(limits_for(name, self.settings.latency_constraint) is None for name in self.platforms)
        if not self._demands and (is_auto or not self.platforms):
            found["latency_constraint"] = file_input(self._choice_file)
        found["images"] = images_input(self.data)
        return found | {f"platform_{name}": platform_input(platform) for name, platform in self.platforms.items()}

    def amounts(self) -> Mapping[str, Amount]:
        """Return the subnets to evaluate at most, those to test, as many as fronts have, and the blocks to measure."""
        recipe, data, settings = self.settings.recipe, self.data, self.settings
        limits = len(limits_for_any(settings.latency_constraint) or (1,)) if recipe.method == "published" else 1
        platforms = max(1, len(settings.platforms))
        shown = platforms * min(recipe.tested, expected_front(recipe.evaluations))
        evaluated = platforms * limits * recipe.evaluations / launched("WORLD_SIZE", 1)
        return {
            SUBNETS: Amount(evaluated, data.calibrated_on + len(data.splits.held_out)),
            TESTED: Amount(shown, data.calibrated_on + data.tested_on),
            BLOCKS: Amount(self._unmeasured[-1]),
        }

    def _drawn(self, member: SpaceMember, population: int) -> list[SubnetSpec]:
        """Draw about as many subnets as a search with such a first generation looks at, a few hundred at most."""
        rng, count = Random(f"{self.settings.seed}-blocks"), self.settings.recipe.looked_at(population)
        return [sample_subnet(member, rng) for _ in range(min(MOST_DRAWN, count))]

    @cached_property
    def _unmeasured(self) -> list[int]:
        """Count the blocks to be measured for 0, 1, … subnets drawn; before a space is found, where no table will be.

        Tables are made before the space is found, and measure most blocks of their resolutions.
        """
        is_known = self.settings.space is not None or self._choice_file.exists()
        member = self.member if is_known else sample_member(self.superspace, Random(self.settings.seed))
        tabled = () if is_known else self.superspace.block_resolutions
        found: dict[str, set[str]] = {name: set() for name in self.platforms}
        counts = [0]
        for spec in self._drawn(member, self.settings.recipe.front.population):
            for name, platform in self.platforms.items() if spec.resolution not in tabled else ():
                found[name] |= platform.unmeasured(platform.blocks_of(member, [spec]))
            counts.append(sum(map(len, found.values())))
        return counts

    def scales(self) -> Sequence[Scale]:
        """Return the subnets of the first generation, and along with them those of the others."""
        recipe = self.settings.recipe
        if recipe.method == "front":
            asked, along = recipe.front.population, {"recipe.front.children": recipe.front.children}
            counts = self._unmeasured
            drawn = [min(recipe.looked_at(number), len(counts) - 1) for number in range(1, asked + 1)]
            unmeasured = {BLOCKS: [counts[number] for number in drawn]}
            return [Scale("recipe.front.population", asked, (SUBNETS, BLOCKS), along, unmeasured)]
        names = ("mutants", "crossovers")
        along = {f"recipe.evolution.{name}": getattr(recipe.evolution, name) for name in names}
        return [Scale("recipe.evolution.population", recipe.evolution.population, (SUBNETS,), along)]

    def reduced(self, extent: Extent) -> Mapping[str, Plain]:
        """Evaluate a few subnets of one generation."""
        size = 2 + 2 * extent.repeats
        sizes: dict[str, Plain] = {f"recipe.{method}.population": size for method in ("front", "evolution")}
        return {**sizes, **{f"recipe.{method}.generations": 1 for method in ("front", "evolution")}}

    def work(self) -> Outcome:
        """Search on every platform; then test, extract and measure."""
        ranks, settings, member = Ranks(), self.settings, self.member
        recipe, output = settings.recipe, self.workspace.output
        _ = self.classes  # faults of the images are told first
        supernet = self.supernet(settings.int8)
        images = self.data.calibration_images(), self.data.held_out()
        evaluator = SubnetEvaluator(supernet, *images, device=self.workspace.device, stop_z=recipe.stop_z)
        with ranks.leading(by_text(evaluator)):
            evaluations = output / f"evaluations_{Extraction(self).fingerprint(settings.int8)}.jsonl"
            if self.workspace.force:
                evaluations.unlink(missing_ok=True)
            fitness = Fitness(evaluator, evaluations, ranks)
            platforms: dict[str, Platform | None] = {**self.platforms} or {NO_PLATFORM: None}
            if not self.platforms:
                console.print(f"{self.name}: latency is not limited, and no platform is asked for any")
            drawn = self._drawn(self.member, recipe.front.population)
            for platform in self.platforms.values():  # blocks met one by one would each wait for a still moment
                platform.ready(self.superspace)
                if platform.unmeasured(needed := [*platform.blocks_of(self.member, drawn)]):
                    platform.ensure(needed)
            searches = [
                FrontSearch(
                    SubnetFigures(member, platform, self.classes, name),
                    self._limits(name),
                    recipe,
                    settings.seed,
                    fitness,
                    output,
                )
                for name, platform in platforms.items()
            ]
            found = [search.run() for search in searches]
            return FrontFiles(self).write(supernet, found, self.platforms)

    def _limits(self, platform: str) -> tuple[Limit, ...]:
        """A platform's limits: those asked for, those of the space search, or, without one, a latency found."""
        settings = self.settings
        asked_ms = limits_for(platform, settings.latency_constraint) if platform in self.platforms else None
        if asked_ms is not None or self._demands:
            return joined_limits(asked_ms, settings.limit)
        if self._chosen_for:
            return self._chosen_for
        smallest, largest = (
            self.platforms[platform].subnet_ms(self.member, spec)
            for spec in (self.member.smallest, self.member.largest)
        )
        return (Limit.of({"ms": float(f"{smallest + settings.recipe.auto_point * (largest - smallest):.3g}")}),)

    @classmethod
    def merge_sweep(cls, folder: Path, jobs: Sequence[Path]) -> None:
        """Join the fronts of a sweep's jobs (machines, seeds, constraints) into one."""
        merge_fronts(folder, jobs)
