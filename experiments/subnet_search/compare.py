"""Front search, published evolution and random search on one trained digits supernet; prints what README.md shows.

Run `make demo` first, then, in the project's folder: `python experiments/subnet_search/compare.py OUTPUT_FOLDER`.
Subnets are evaluated once and remembered in the output folder, so a second run takes seconds; images are counted as if
every search had evaluated its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_dir

from spaceevo.jobs.runner import make_job
from spaceevo.nn.evaluate import Evaluation, SubnetEvaluator
from spaceevo.search.evolution import GenerationalEvolution, evolve
from spaceevo.search.front import FrontEvolution, Staircase
from spaceevo.search.problems import SubnetProblem
from spaceevo.space.description import conf_folder
from spaceevo.space.encoding import SubnetSpec
from spaceevo.stages.front_search import most_accurate
from spaceevo.stages.subnet_search import SubnetSearchJob

EVOLUTION = {"population": 48, "generations": 6, "mutants": 12, "crossovers": 12}
"""The published evolution, scaled down from 512, 20, 128, 128: 168 evaluations for each limit."""


FRONT = {"population": 24, "generations": 8, "children": 24, "screened": 4}
"""The search of the front: 192 evaluations for all limits together."""


class Lab:
    """The supernet, the platform, and all that has been evaluated."""

    def __init__(self, output: Path, space: str | None) -> None:
        overrides = ["+stage=subnet_search", "superspace=digits", f"paths.output={output}"]
        overrides += [f"space={space}"] if space else []
        with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
            config = compose("config", overrides, return_hydra_config=True)
        config.hydra.mode = "RUN"
        job = make_job(config)
        assert isinstance(job, SubnetSearchJob)
        self.member, supernet = job.source.selection.member, job.source.supernet(int8=True)
        calibration = job.data.calibration_images()
        self.evaluators = {
            "held_out": SubnetEvaluator(supernet, calibration, job.data.held_out()),
            "test": SubnetEvaluator(supernet, calibration, job.data.test()),
        }
        (self.platform,) = job.platforms.values()
        self.file = output / f"counts_{self.member}.jsonl"
        self.known: dict[tuple[str, SubnetSpec], list[int]] = {}
        output.mkdir(parents=True, exist_ok=True)
        if self.file.exists():
            for line in self.file.read_text().splitlines():
                part, text, counts = json.loads(line)
                self.known[part, SubnetSpec.parse(text)] = counts

    @cache  # noqa: B019  one lab lives as long as the program
    def latency_ms(self, spec: SubnetSpec) -> float:
        """Predicted latency."""
        return float(self.platform.subnet_ms(self.member, spec))

    def counts(self, spec: SubnetSpec, part: str = "held_out") -> list[int]:
        """Correct answers in every chunk."""
        if (part, spec) not in self.known:
            self.known[part, spec] = self.evaluators[part](spec)
            with self.file.open("a") as file:
                file.write(json.dumps([part, str(spec), self.known[part, spec]]) + "\n")
        return self.known[part, spec]

    def top1(self, spec: SubnetSpec, part: str = "held_out") -> float:
        """Top-1 of all images of a part."""
        return self.judge(spec, None, part).top1

    def judge(self, spec: SubnetSpec, below: float | None, part: str = "held_out") -> Evaluation:
        """What an evaluation that may stop early would have given."""
        found = self.evaluators[part].judge(self.counts(spec, part), below)
        assert found is not None
        return found

    def problem(self, low_ms: float, high_ms: float) -> SubnetProblem:
        """Subnets of a range of latencies."""

        def is_feasible(spec: SubnetSpec) -> bool:
            return low_ms <= self.latency_ms(spec) <= high_ms

        return SubnetProblem(self.member, is_feasible, f"latency in [{low_ms}, {high_ms}] ms", self.latency_ms)

    def best(self, scores: dict[SubnetSpec, float], high_ms: float, predicts: bool) -> SubnetSpec:
        """The best subnet within a limit; of several the predicted best, as the stage has it, or the fastest."""
        within = [spec for spec in scores if self.latency_ms(spec) <= high_ms]
        if predicts:
            return most_accurate(within, scores, self.latency_ms)
        return min(within, key=lambda spec: (-scores[spec], self.latency_ms(spec)))


class Search:
    """One search's evaluations and the images they took."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.images = lab, 0
        self.stairs: Staircase | None = None
        self.complete: dict[SubnetSpec, float] = {}

    def evaluate(self, spec: SubnetSpec) -> float:
        """Top-1, of part of the images where hopeless."""
        below = self.stairs(self.lab.latency_ms(spec)) if self.stairs else None
        found = self.lab.judge(spec, below)
        self.images += found.images
        if not found.stopped:
            self.complete[spec] = found.top1
        return found.top1

    def front(self, high_ms: float, seed: int, **settings: int) -> None:
        """The search of the whole front, hopeless subnets stopped early."""

        def climb(_: object) -> None:
            self.stairs = Staircase([(self.lab.latency_ms(spec), top1) for spec, top1 in self.complete.items()])

        strategy = FrontEvolution(self.lab.problem(0.0, high_ms), **settings)
        evolve(strategy, self.evaluate, Random(f"front {seed}"), on_batch=climb)

    def published(self, low_ms: float, high_ms: float, seed: int) -> None:
        """The published evolution in one window."""
        strategy = GenerationalEvolution(self.lab.problem(low_ms, high_ms), **EVOLUTION)
        evolve(strategy, self.evaluate, Random(f"published {high_ms} {seed}"))

    def random(self, high_ms: float, count: int, seed: int) -> None:
        """So many distinct random subnets within a limit."""
        rng, problem, seen = Random(f"random {high_ms} {seed}"), self.lab.problem(0.0, high_ms), set[SubnetSpec]()
        while len(seen) < count:
            spec = problem.sample(rng)
            if spec not in seen and problem.feasible(spec):
                seen.add(spec)
                self.evaluate(spec)


def limits_ms(lab: Lab) -> list[float]:
    """Five limits at even steps between the smallest and the largest subnet's latency, ends left out."""
    low, high = lab.latency_ms(lab.member.smallest), lab.latency_ms(lab.member.largest)
    return [low + (high - low) * step / 6 for step in range(1, 6)]


def compare(lab: Lab, seed: int, settings: dict[str, int]) -> Iterator[dict[str, Any]]:
    """One row a limit, the median one first; random search at the median limit alone, but for the first seed."""
    limits = limits_ms(lab)
    delta = limits[1] - limits[0]
    ours = Search(lab)
    ours.front(limits[-1], seed, **settings)
    count = FrontEvolution(lab.problem(0, 1), **settings).total
    for limit in sorted(limits, key=lambda limit: limit != limits[2]):
        rivals = {"front": ours, "published": Search(lab)}
        rivals["published"].published(limit - delta, limit, seed)
        if seed == 0 or limit == limits[2]:
            rivals["random"] = Search(lab)
            rivals["random"].random(limit, count, seed)
        row: dict[str, Any] = {"seed": seed, "limit_ms": limit}
        for name, search in rivals.items():
            spec = lab.best(search.complete, limit, predicts=search is ours)
            row |= {f"{name}_held_out": lab.top1(spec), f"{name}_test": lab.top1(spec, "test")}
            row |= {f"{name}_ms": lab.latency_ms(spec), f"{name}_images": search.images}
        yield row


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean figures of each limit, and how often the front's subnet is at least as good."""
    grouped = table.groupby("limit_ms")
    shown = grouped[[c for c in table if c.endswith(("_held_out", "_test"))]].mean().round(2)
    for rival in ("published", "random"):
        for part in ("held_out", "test"):
            both = table[table[f"{rival}_{part}"].notna()]
            at_least = both[f"front_{part}"] >= both[f"{rival}_{part}"]
            count = at_least.groupby(both.limit_ms).agg(["sum", "count"])
            shown[f">={rival} {part}"] = count["sum"].astype(str) + " of " + count["count"].astype(str)
    return shown


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--space")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--front", type=json.loads, default={"population": 24, "generations": 8, "children": 24, "screened": 4}
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lab = Lab(arguments.output, arguments.space)
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for row in compare(lab, seed, arguments.front):
            rows.append(row)
            pd.DataFrame(rows).to_csv(arguments.output / f"compare_{lab.member}.csv", index=False)
    table = pd.DataFrame(rows)
    by_seed = table.groupby("seed")
    images = pd.DataFrame({"front": by_seed.front_images.first(), "published": by_seed.published_images.sum()})
    images["random, each limit"] = by_seed.random_images.first()
    images["front / published"] = images.front / images.published
    with pd.option_context("display.width", 250, "display.max_columns", 50):
        print(summary(table), images, sep="\n\n")


if __name__ == "__main__":
    main()
