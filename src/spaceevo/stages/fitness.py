"""Top-1 of subnets during a search: each is evaluated once, and kept in a file as soon as it is known."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from spaceevo.artifacts import append_line, fingerprint, parse_json, write_text
from spaceevo.collectives.sharing import Ranks, Work
from spaceevo.errors import EncodingError
from spaceevo.nn.evaluate import Evaluation, SubnetEvaluator
from spaceevo.space.encoding import SubnetSpec
from spaceevo.terminal import doing

SUBNETS = "evaluated subnets"  # A kind of work


class Fitness:
    """Evaluates one supernet's subnets; appends to a file, one a line: a subnet and its correct answers by chunk.

    What an evaluation amounts to follows from those counts and from what is asked, so it does not matter which search
    made it, nor when. A killed search is run again from its seed: it finds here what it had evaluated, repeats itself
    without work, and goes on. A subnet that was hopeless in one search is evaluated again where it may not be.

    Args:
        evaluator: evaluates one subnet.
        path: file of the evaluations; continued if it is there.
        ranks: the processes that evaluate.
    """

    def __init__(self, evaluator: SubnetEvaluator, path: Path, ranks: Ranks) -> None:
        self.evaluator = evaluator
        self.work = by_text(evaluator)
        self.path = path
        self.ranks = ranks
        path.parent.mkdir(parents=True, exist_ok=True)
        self.counts = _read(path)

    def evaluate(
        self,
        specs: Sequence[SubnetSpec],
        hopeless_below: Callable[[SubnetSpec], float | None] = lambda _: None,
        on_evaluation: Callable[[SubnetSpec, Evaluation], None] = lambda *_: None,
    ) -> dict[SubnetSpec, Evaluation]:
        """Evaluate what is not known yet, over all processes; `hopeless_below` is the top-1 in percent to reach."""
        asked = {spec: hopeless_below(spec) for spec in specs}
        found: dict[SubnetSpec, Evaluation] = {}

        def keep(spec: SubnetSpec) -> bool:
            evaluation = self.evaluator.judge(self.counts.get(spec, ()), asked[spec])
            if evaluation is not None:
                found[spec] = evaluation
                on_evaluation(spec, evaluation)
            return evaluation is not None

        left = [(spec, asked[spec]) for spec in asked if not keep(spec)]
        items = [json.dumps([str(spec), below]) for spec, below in left]
        for (spec, _), result in zip(left, self.ranks.map(self.work, items), strict=True):
            counts: list[int] = json.loads(result)
            append_line(self.path, _line(spec, counts))
            self.counts[spec] = counts
            keep(spec)
        return {spec: found[spec] for spec in asked}


def by_text(evaluator: SubnetEvaluator) -> Work:
    """Let processes share an evaluator's work: items are JSON of a subnet and what it must reach, results of counts."""

    def work(item: str) -> str:
        subnet, hopeless_below = json.loads(item)
        with doing(SUBNETS):
            return json.dumps(evaluator(SubnetSpec.parse(subnet), hopeless_below))

    return work


def _line(spec: SubnetSpec, counts: Sequence[int]) -> str:
    """The line of an evaluation: a subnet, its counts, and a checksum of both."""
    return json.dumps([str(spec), counts, fingerprint([str(spec), counts])])


def _read(path: Path) -> dict[SubnetSpec, list[int]]:
    """Read the lines of a file; those torn by a kill or damaged are taken out, so that they are evaluated again."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    found = {line: evaluation for line in lines if (evaluation := _parsed(line)) is not None}
    if lines and lines != [*found, ""]:
        write_text(path, "".join(f"{line}\n" for line in found))
    return dict(found.values())


def _parsed(line: str) -> tuple[SubnetSpec, list[int]] | None:
    try:
        subnet, counts, checksum = parse_json(line)
        spec = SubnetSpec.parse(subnet)
        is_whole = bool(checksum == fingerprint([subnet, counts]))
    except (ValueError, TypeError, AttributeError, EncodingError):
        return None
    return (spec, counts) if is_whole else None
