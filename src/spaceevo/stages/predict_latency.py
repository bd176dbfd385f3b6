"""Job predict_latency: predicted latency of subnets, and of random ones with a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

from annotated_types import Ge

from spaceevo.artifacts import Component, write_csv
from spaceevo.platforms.base import Platform
from spaceevo.report.latency_cdf import draw_latency_cdf
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import sample_subnet
from spaceevo.space.published import published_names
from spaceevo.stages.job import Input, Made, Outcome, platform_input
from spaceevo.stages.selection import SpaceJob
from spaceevo.stages.settings import Seed, SubnetSettings
from spaceevo.terminal import print_rows

COLUMNS = {"name": "", "latency_ms": "predicted ms", "subnet": "subnet"}
QUANTILES = (5, 50, 95)
RANDOM_SUBNETS = 1000
"""Sampled where no subnet is listed."""
Row = dict[str, Any]


@dataclass(frozen=True)
class PredictLatencyRecipe:
    """Says how many random subnets are predicted: None is 1000 where no subnet is listed, else none."""

    random_subnets: Annotated[int, Ge(0)] | None


@dataclass(frozen=True, kw_only=True)
class PredictLatencySettings(SubnetSettings):
    """Says whose latency is predicted, by default the largest's and the smallest's, and on which platform."""

    platform: Component[Platform]
    seed: Seed
    recipe: PredictLatencyRecipe


class PredictLatencyJob(SpaceJob[PredictLatencySettings]):
    """Predicts the subnets of `subnet=…`; without, the largest, the smallest and random others."""

    name = "predict_latency"
    main_figure = "latency_ms"

    platform = Made[Platform]()

    def inputs(self) -> Mapping[str, Input]:
        """Return what the platform predicts by, and what decides the space where none is asked for."""
        return {**super().inputs(), "platform": platform_input(self.platform)}

    def work(self) -> Outcome:
        """Predict, print, draw."""
        member, platform, output = self.selection.member, self.platform.name, self.workspace.output
        names = {member.largest: "max", member.smallest: "min"} | published_names(member)
        specs = self.selection.subnets(member.largest, member.smallest)
        rows = [{"name": names.get(spec, ""), **row} for spec, row in zip(specs, self._predicted(specs), strict=True)]
        title = f"{member} on {platform}"
        print_rows(rows, COLUMNS, title)
        write_csv(output / "subnets.csv", rows)
        figures: Row = {"space": str(member), "platform": platform, "latency_ms": rows[0]["latency_ms"]}
        figures["subnets"] = rows
        outputs = {"subnets": output / "subnets.csv"}
        if count := self._random_count:
            rng = Random(self.settings.seed)
            sampled = self._predicted([sample_subnet(member, rng) for _ in range(count)])
            figures |= _spread(sampled)
            named = {row["name"] or f"subnet {index}": row["latency_ms"] for index, row in enumerate(rows)}
            outputs |= _write_random(output, sampled, named, title)
        return Outcome(figures, outputs)

    @property
    def _random_count(self) -> int:
        asked = self.settings.recipe.random_subnets
        if asked is not None:
            return asked
        return RANDOM_SUBNETS if self.settings.subnet is None else 0

    def _predicted(self, specs: Sequence[SubnetSpec]) -> list[Row]:
        """Subnets with their latency in ms; what the platform does not know of them is measured together."""
        found_ms = self.platform.subnets_ms(self.selection.member, specs)
        return [{"latency_ms": float(ms), "subnet": str(spec)} for spec, ms in zip(specs, found_ms, strict=True)]


def _spread(sampled: Sequence[Row]) -> Row:
    """Quantiles and ends of random subnets' latency in ms."""
    ordered_ms = sorted(row["latency_ms"] for row in sampled)
    quantiles = {f"random_p{q}_latency_ms": ordered_ms[(len(ordered_ms) - 1) * q // 100] for q in QUANTILES}
    ends = {"random_min_latency_ms": ordered_ms[0], "random_max_latency_ms": ordered_ms[-1]}
    return {**quantiles, "random_subnets": len(sampled), **ends}


def _write_random(output: Path, sampled: Sequence[Row], named: Mapping[str, float], title: str) -> dict[str, Path]:
    """Table and picture of random subnets, with the named ones marked in the latter."""
    outputs = {"random": output / "random.csv", "picture": output / "latency_cdf.png"}
    write_csv(outputs["random"], sampled)
    draw_latency_cdf(outputs["picture"], sorted(row["latency_ms"] for row in sampled), named, title)
    return outputs
