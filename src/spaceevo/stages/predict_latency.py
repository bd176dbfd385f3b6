"""Stage predict_latency: predicted latency of subnets, and of random ones with a picture."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from spaceevo.artifacts import fingerprint
from spaceevo.platforms.measuring import MeasuringPlatform
from spaceevo.report.latency_cdf import draw_latency_cdf
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import sample_subnet
from spaceevo.space.published import published_names
from spaceevo.stages.base import Context, Outcome, StageCallback, write_csv
from spaceevo.stages.tables import print_rows
from spaceevo.terminal import console

QUANTILES = (5, 50, 95)


class PredictLatencyStage(StageCallback):
    """Predicts the subnets of `subnet=…`; without, the largest, the smallest and `random_subnets` others."""

    name = "predict_latency"
    main_figure = "latency_ms"

    def stamp(self, context: Context) -> str:
        """Of what the platform predicts by; blocks that it measured since do not count."""
        is_measured = isinstance(context.platform, MeasuringPlatform)
        return fingerprint(context.platform.table_state(0 if is_measured else None))

    def work(self, context: Context) -> Outcome:
        """Predict, print, draw."""
        member, platform = context.member, context.platform
        names = {member.largest: "max", member.smallest: "min"} | published_names(member)
        rows: list[dict[str, Any]] = [
            {"name": names.get(spec, ""), "latency_ms": latency_ms, "subnet": str(spec)}
            for spec, latency_ms in _predicted(context, context.subnets(member.largest, member.smallest))
        ]
        print_rows(
            console,
            rows,
            {"name": "", "latency_ms": "predicted ms", "subnet": "subnet"},
            f"{member} on {platform.name}",
        )
        write_csv(context.output / "subnets.csv", rows)
        figures: dict[str, Any] = {
            "space": str(member),
            "platform": platform.name,
            "latency_ms": rows[0]["latency_ms"],
            "subnets": rows,
        }
        outputs = {"subnets": context.output / "subnets.csv"}
        if count := self._random_count(context):
            drawn = self._random(context, count)
            drawn_ms = sorted(row["latency_ms"] for row in drawn)
            figures |= {f"random_p{q}_latency_ms": drawn_ms[(len(drawn_ms) - 1) * q // 100] for q in QUANTILES}
            figures |= {
                "random_subnets": count,
                "random_min_latency_ms": drawn_ms[0],
                "random_max_latency_ms": drawn_ms[-1],
            }
            outputs |= {"random": context.output / "random.csv", "picture": context.output / "latency_cdf.png"}
            write_csv(outputs["random"], drawn)
            marked = {row["name"] or f"subnet {index}": row["latency_ms"] for index, row in enumerate(rows)}
            draw_latency_cdf(outputs["picture"], drawn_ms, marked, f"{member} on {platform.name}")
        return Outcome(figures, outputs)

    def _random_count(self, context: Context) -> int:
        asked = context.recipe["random_subnets"]
        return int(asked) if asked is not None else 0 if context.plain["subnet"] else 1000

    def _random(self, context: Context, count: int) -> list[dict[str, Any]]:
        rng = Random(context.seed)
        specs = [sample_subnet(context.member, rng) for _ in range(count)]
        return [{"subnet": str(spec), "latency_ms": latency_ms} for spec, latency_ms in _predicted(context, specs)]


def _predicted(context: Context, specs: Sequence[SubnetSpec]) -> list[tuple[SubnetSpec, float]]:
    """Subnets with their latency in ms; what the platform does not know of them is measured together."""
    return list(zip(specs, map(float, context.platform.subnets_ms(context.member, specs)), strict=True))
