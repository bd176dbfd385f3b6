"""Stage subnet_search: the best subnets of a trained supernet within a latency limit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from rich.progress import Progress

from spaceevo.artifacts import file_hash, fingerprint, read_json, write_json
from spaceevo.errors import ConfigError, ConstraintError
from spaceevo.nn.evaluate import subnet_top1
from spaceevo.search.evolution import GenerationalEvolution, evolve
from spaceevo.search.problems import SubnetProblem
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.base import Context, Outcome, StageCallback, write_csv


class SubnetSearchStage(StageCallback):
    """Finds the best subnets of a trained supernet within each latency constraint."""

    name = "subnet_search"
    main_figure = "chosen_top1"

    def inputs(self, context: Context) -> dict[str, Path]:
        """The supernet, and the space search where it decides space and constraint."""
        best = context.layout.space_search(context.superspace.name) / "best.json"
        return {"supernet": context.supernet_file(context.int8), "best": best}

    def work(self, context: Context) -> Outcome:
        """Search, then test the front."""
        member, supernet = context.member, context.supernet(context.int8)
        calibration, held_out = context.data.calibration_images(), context.data.held_out()
        constraints = context.constraints_ms() or self._searched_constraints(context)
        latency = _Latencies(context, member)

        def evaluate(spec: SubnetSpec) -> float:
            if spec not in scores:
                scores[spec] = subnet_top1(supernet, spec, calibration, held_out)
            return scores[spec]

        scores: dict[SubnetSpec, float] = {}
        chosen = [self._search(context, scores, evaluate, latency, constraint) for constraint in constraints]
        front = _front(scores, latency)[: int(context.recipe["tested"])]
        test = context.data.test()
        rows = [
            {
                "subnet": str(spec),
                "latency_ms": latency(spec),
                "held_out_top1": scores[spec],
                "top1": subnet_top1(supernet, spec, calibration, test),
            }
            for spec in dict.fromkeys([*front, *chosen])
        ]
        return self._finish(context, rows, chosen[0], len(scores), constraints)

    def _finish(
        self,
        context: Context,
        rows: list[dict[str, Any]],
        chosen: SubnetSpec,
        evaluations: int,
        constraints: list[float],
    ) -> Outcome:
        folder = context.shared(context.layout.subnet_search(str(context.member)))
        write_csv(context.output / "front.csv", rows)
        write_json(folder / "front.json", {"chosen": str(chosen), "front": rows, "latency_constraints_ms": constraints})
        row = next(row for row in rows if row["subnet"] == str(chosen))
        figures = {
            "space": str(context.member),
            "chosen_subnet": str(chosen),
            "chosen_top1": row["top1"],
            "chosen_held_out_top1": row["held_out_top1"],
            "chosen_predicted_latency_ms": row["latency_ms"],
            "latency_constraint_ms": constraints[0],
            "evaluations": evaluations,
            "pareto_subnets": rows,
        }
        outputs = {"front": context.output / "front.csv", "chosen": folder / "front.json"}
        return Outcome(figures, outputs, context.command("export", f"space={context.member}", "quant=deploy"))

    def _search(
        self,
        context: Context,
        scores: dict[SubnetSpec, float],
        evaluate: Callable[[SubnetSpec], float],
        latency: _Latencies,
        constraint_ms: float,
    ) -> SubnetSpec:
        """The best subnet within one constraint; continues an interrupted search."""
        member, lowest = context.member, self._lowest_ms(context, constraint_ms)
        fastest, slowest = latency(member.smallest), latency(member.largest)
        if constraint_ms < fastest:
            raise ConstraintError(
                f"latency constraint {constraint_ms:g} ms: no subnet of {member} is that fast, "
                f"the fastest takes {fastest:.4g} ms, the slowest {slowest:.4g} ms; raise latency_constraint"
            )
        problem = SubnetProblem(
            member,
            lambda spec: lowest <= latency(spec) <= constraint_ms,
            f"latency in [{lowest:g}, {constraint_ms:g}] ms ({fastest:.4g} to {slowest:.4g} exist), latency_constraint",
        )
        strategy = GenerationalEvolution(problem, **context.recipe["evolution"])
        history = context.output / f"history_{constraint_ms:g}ms.json"
        stamp = fingerprint([problem.requirement, context.plain["data"], context.recipe, self._supernet_hash(context)])
        saved = read_json(history) if history.exists() else {}
        with Progress() as progress:
            task = progress.add_task("subnet search", total=strategy.total)

            def show(done: int, total: int, best: tuple[SubnetSpec, float]) -> None:
                text = f"subnets within {constraint_ms:g} ms, best {best[1]:.1f} %"
                progress.update(task, completed=done, total=total, description=text)

            state = evolve(
                strategy,
                evaluate,
                Random(f"{context.seed}-{constraint_ms}"),
                resume=saved["state"] if saved.get("stamp") == stamp else None,
                save=lambda value: write_json(history, {"stamp": stamp, "state": value}),
                on_evaluation=show,
            )
        scores |= state.history
        best = state.best[1]
        return min((spec for spec, score in state.history.items() if score == best), key=latency)

    def _lowest_ms(self, context: Context, constraint_ms: float) -> float:
        delta = context.recipe["delta_ms"]
        if delta is None:
            return 0.0
        if not 0 < delta <= constraint_ms:
            raise ConfigError(
                f"recipe.subnet_search.delta_ms = {delta}; allowed: above 0, up to the constraint {constraint_ms} ms"
            )
        return float(constraint_ms - delta)

    def _searched_constraints(self, context: Context) -> list[float]:
        path = context.layout.space_search(context.superspace.name) / "best.json"
        if not path.exists():
            raise ConfigError("latency_constraint=auto takes the space search's, and there is none; set it in ms")
        return list(read_json(path)["latency_constraints_ms"])

    def _supernet_hash(self, context: Context) -> str:
        return file_hash(self.inputs(context)["supernet"])


class _Latencies:
    """Predicted latency of subnets, each computed once."""

    def __init__(self, context: Context, member: SpaceMember) -> None:
        self.platform, self.member = context.platform, member
        self.known: dict[SubnetSpec, float] = {}

    def __call__(self, spec: SubnetSpec) -> float:
        if spec not in self.known:
            self.known[spec] = self.platform.subnet_ms(self.member, spec)
        return self.known[spec]


def _front(scores: dict[SubnetSpec, float], latency: _Latencies) -> list[SubnetSpec]:
    """Subnets that no other beats in both top-1 and latency, fastest first."""
    front: list[SubnetSpec] = []
    for spec in sorted(scores, key=lambda s: (latency(s), -scores[s])):
        if not front or scores[spec] > scores[front[-1]]:
            front.append(spec)
    return front
