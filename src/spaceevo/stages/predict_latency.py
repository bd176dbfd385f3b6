"""Job predict_latency: predicted latency of subnets, and of random ones with a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from spaceevo.artifacts import Component, write_csv
from spaceevo.platforms.base import Platform
from spaceevo.report.latency import draw_latency_cdf
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import sample_subnet
from spaceevo.stages.job import Input, Made, Outcome, platform_input
from spaceevo.stages.selection import SpaceJob
from spaceevo.stages.settings import Index, Seed, SubnetSettings
from spaceevo.terminal import print_rows

COLUMNS = {"name": "", "latency_ms": "predicted ms", "subnet": "subnet"}
QUANTILES = (5, 50, 95)
RANDOM_SUBNETS = 1000  # Sampled where no subnet is listed
Row = dict[str, Any]


@dataclass(frozen=True)
class PredictLatencyRecipe:
    """Says how many random subnets are predicted: None is 1000 where no subnet is listed, else none."""

    random_subnets: Index | None


@dataclass(frozen=True, kw_only=True)
class PredictLatencySettings(SubnetSettings):
    """Says whose latency is predicted, by default the largest's and the smallest's, and on which platform."""

    platform: Component[Platform]
    seed: Seed  # decides which random subnets are sampled
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
        member, platform, output = self.member, self.platform.name, self.workspace.output
        specs = self.subnets(member.largest, member.smallest)
        named = [{"name": self.subnet_names.get(spec, "")} for spec in specs]
        rows = [{**name, **row} for name, row in zip(named, self._predicted(specs), strict=True)]
        title = f"{member} on {platform}"
        print_rows(rows, COLUMNS, title)
        write_csv(output / "subnets.csv", rows)
        figures: Row = {
            "space": str(member),
            "platform": platform,
            "latency_ms": rows[0]["latency_ms"],
            "subnets": rows,
        }
        outputs = {"subnets": output / "subnets.csv"}
        asked, default = self.settings.recipe.random_subnets, 0 if self.settings.subnet else RANDOM_SUBNETS
        if count := default if asked is None else asked:
            rng = Random(self.settings.seed)
            sampled = self._predicted([sample_subnet(member, rng) for _ in range(count)])
            ordered_ms = sorted(row["latency_ms"] for row in sampled)
            figures |= _spread(ordered_ms)
            outputs |= {"random": output / "random.csv", "picture": output / "latency_cdf.png"}
            write_csv(outputs["random"], sampled)
            marked = {row["name"] or f"subnet {index}": row["latency_ms"] for index, row in enumerate(rows)}
            draw_latency_cdf(outputs["picture"], ordered_ms, marked, title)
        return Outcome(figures, outputs)

    def _predicted(self, specs: Sequence[SubnetSpec]) -> list[Row]:
        """Predict latencies in ms; what the platform does not know of the subnets is measured together."""
        found_ms = self.platform.subnets_ms(self.member, specs)
        return [{"latency_ms": float(ms), "subnet": str(spec)} for spec, ms in zip(specs, found_ms, strict=True)]


def _spread(ordered_ms: Sequence[float]) -> Row:
    """Give quantiles and ends of random subnets' latency in ms."""
    quantiles = {f"random_p{q}_latency_ms": ordered_ms[(len(ordered_ms) - 1) * q // 100] for q in QUANTILES}
    ends = {"random_min_latency_ms": ordered_ms[0], "random_max_latency_ms": ordered_ms[-1]}
    return {**quantiles, "random_subnets": len(ordered_ms), **ends}
