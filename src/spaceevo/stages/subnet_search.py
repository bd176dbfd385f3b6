"""Job subnet_search: the front of a trained supernet, accuracy against latency, and the best subnet of each limit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spaceevo.artifacts import Component, SpaceChoice
from spaceevo.collectives.sharing import Ranks
from spaceevo.nn.evaluate import SubnetEvaluator
from spaceevo.platforms.base import Platform
from spaceevo.stages.extraction import Extraction
from spaceevo.stages.fitness import Fitness, by_text
from spaceevo.stages.front_files import FrontFiles, merge_fronts
from spaceevo.stages.front_search import FrontSearch, SubnetSearchRecipe
from spaceevo.stages.job import Input, Outcome, file_input, images_input, platform_input
from spaceevo.stages.selection import SupernetBasedJob
from spaceevo.stages.settings import LatencyConstraint, SupernetSettings, limits_for

AUTO_POINT = 0.35  # Without a space search, `auto` lies this far from the smallest subnet to the largest


@dataclass(frozen=True, kw_only=True)
class SubnetSearchSettings(SupernetSettings):
    """Says which supernet is searched, and for which platforms and latencies."""

    platform: Component[Platform]  # the platform, where `platforms` lists none
    platforms: Mapping[str, Component[Platform]]  # several platforms by name
    latency_constraint: LatencyConstraint  # latency limits in ms
    recipe: SubnetSearchRecipe  # how to search


class SubnetSearchJob(SupernetBasedJob[SubnetSearchSettings]):
    """Finds the front of a supernet's subnets on each platform, and the best subnet within each latency constraint."""

    name = "subnet_search"
    main_figure = "chosen_top1"
    is_parallel = True

    @cached_property
    def platforms(self) -> dict[str, Platform]:
        """The platforms to search for, by name."""
        listed = {name: self.workspace.make(component) for name, component in self.settings.platforms.items()}
        if listed:
            return listed
        platform = self.workspace.make(self.settings.platform)
        return {platform.name: platform}

    @property
    def _choice_file(self) -> Path:
        return self.workspace.layout.space_choice(self.superspace.name)

    def inputs(self) -> Mapping[str, Input]:
        """Return weights, images, latencies, and the space search where it decides space or limits."""
        found = {**super().inputs(), **self.supernet_inputs(*((True, False) if self.settings.int8 else (False,)))}
        if any(limits_for(name, self.settings.latency_constraint) is None for name in self.platforms):
            found["latency_constraint"] = file_input(self._choice_file)
        found["images"] = images_input(self.data)
        return found | {f"platform_{name}": platform_input(platform) for name, platform in self.platforms.items()}

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
            searches = [
                FrontSearch(member, name, platform, self._limits(name), recipe, settings.seed, fitness, output)
                for name, platform in self.platforms.items()
            ]
            found = [search.run() for search in searches]
            return FrontFiles(self).write(supernet, found, self.platforms)

    def _limits(self, platform: str) -> tuple[float, ...]:
        """A platform's latency limits in ms: those asked for, those of the space search, or, without one, one found."""
        asked = limits_for(platform, self.settings.latency_constraint)
        if asked is None and not self._choice_file.exists():
            smallest, largest = (
                self.platforms[platform].subnet_ms(self.member, spec)
                for spec in (self.member.smallest, self.member.largest)
            )
            return (float(f"{smallest + AUTO_POINT * (largest - smallest):.3g}"),)
        return asked or SpaceChoice.read(self._choice_file).latency_constraints_ms

    @classmethod
    def merge_sweep(cls, folder: Path, jobs: Sequence[Path]) -> None:
        """Join the fronts of a sweep's jobs (machines, seeds, constraints) into one."""
        merge_fronts(folder, jobs)
