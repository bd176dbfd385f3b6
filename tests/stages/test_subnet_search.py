"""The stage's decisions, on a supernet of random weights: limits, ranges, platforms, files, faults."""

import json
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from spaceevo.artifacts import Layout
from spaceevo.errors import ConfigError, ConstraintError, TableError
from spaceevo.latency.predictor import BlockLatency
from spaceevo.latency.table import LatencyTable
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.subnets import read_subnet
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import set_quant
from spaceevo.space.cost import subnet_cost
from spaceevo.space.description import superspace
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import sample_subnet
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.front_files import merge_jobs
from spaceevo.stages.subnet_search import SubnetSearchStage, most_accurate

DIGITS = superspace("digits")
MEMBER = DIGITS.member((2, 2, 2), (0, 0, 0))
IMAGES = [(torch.randn(40, 3, 32, 32), torch.arange(40) % 10)]


class Platform:
    """Latency is MMACs times a factor; measured latency 5 % more, where the platform is at hand."""

    def __init__(self, factor: float, at_hand: bool, knows_all: bool = True) -> None:
        self.factor, self.knows_all = factor, knows_all
        if at_hand:
            self.measured_ms = lambda models: {name: 1.05 * self.predicted(name) for name in models}

    def predicted(self, text: str) -> float:
        return self.subnet_ms(MEMBER, SubnetSpec.parse(text))

    def subnet_ms(self, member: SpaceMember, spec: SubnetSpec) -> float:
        return self.factor * subnet_cost(member, spec).mmacs

    def fastest(self, member: SpaceMember) -> SubnetSpec | None:
        return member.smallest if self.knows_all else None


def context(folder: Path, **recipe: Any) -> Any:
    """What the stage asks of its context, without Hydra."""
    supernet = Supernet(MEMBER)
    set_quant(supernet, True)
    for spec in (MEMBER.smallest, MEMBER.largest):
        supernet.activate(spec)
        supernet(IMAGES[0][0])
    found = SimpleNamespace(
        member=MEMBER,
        superspace=DIGITS,
        seed=0,
        int8=True,
        output=folder / "out",
        layout=Layout(folder / "checkpoints"),
        platform=Platform(1.0, at_hand=True),
        plain={"data": {}, "quant": {}, "platforms": {}},
        config=SimpleNamespace(platform=SimpleNamespace(name="desk"), quant=SimpleNamespace(name="deploy")),
        data=SimpleNamespace(
            calibration_images=lambda: [IMAGES[0][0]],
            held_out=lambda: IMAGES,
            test=lambda: IMAGES,
            classes=tuple("0123456789"),
        ),
        recipe={
            "method": "front",
            "front": {"population": 8, "generations": 3, "children": 5},
            "evolution": {"population": 8, "generations": 2, "mutants": 3, "crossovers": 2},
            "delta_ms": None,
            "stop_z": 3.0,
            "tested": 3,
            **recipe,
        },
        limits=[1.0, 0.6],
    )
    found.shared = lambda path: path
    found.constraints_ms = lambda name: found.limits
    found.command = lambda stage, *overrides: f"python -m spaceevo +stage={stage} {' '.join(overrides)}"
    found.supernet_file = lambda int8: found.layout.supernet(str(MEMBER), int8)
    found.supernet = lambda int8: supernet.eval()
    save_checkpoint(found.supernet_file(True), supernet, CheckpointMeta(quant="deploy"))
    return found


@pytest.mark.parametrize("method", ["front", "published"])
def test_each_limit_has_its_subnet(tmp_path: Path, method: str) -> None:
    found = context(tmp_path, method=method)
    outcome = SubnetSearchStage().work(found)
    record = json.loads((tmp_path / "checkpoints/search_subnet" / str(MEMBER) / "front.json").read_text())
    chosen = record["chosen_by_limit"]["desk"]
    assert list(chosen) == ["1", "0.6"]
    assert record["chosen"] == chosen["1"] == outcome.figures["chosen_subnet"]
    for limit, text in chosen.items():
        assert subnet_cost(MEMBER, SubnetSpec.parse(text)).mmacs <= float(limit)
    rows = pd.read_csv(outcome.outputs["front"])
    assert set(rows.subnet) >= set(chosen.values())
    assert (rows.measured_ms / rows.latency_ms).tolist() == pytest.approx([1.05] * len(rows))
    assert outcome.figures["front_within_10_percent"] == 100.0
    assert outcome.figures["evaluations"] <= (18 if method == "front" else 2 * 13)
    assert outcome.outputs["picture"].stat().st_size > 1000
    assert "+stage=export" in outcome.next_command


def test_every_shown_subnet_is_extracted(tmp_path: Path) -> None:
    outcome = SubnetSearchStage().work(context(tmp_path))
    for row in outcome.figures["pareto_subnets"]:
        subnet = read_subnet(Path(row["int8_file"]), DIGITS, "")
        assert (str(subnet.spec), subnet.quant, len(subnet.classes)) == (row["subnet"], "deploy", 10)
        top1 = 100 * float((subnet.network(IMAGES[0][0]).argmax(1) == IMAGES[0][1]).double().mean())
        assert top1 == pytest.approx(row["top1"])


def test_a_second_run_evaluates_nothing_and_finds_the_same(tmp_path: Path) -> None:
    found = context(tmp_path)
    first = SubnetSearchStage().work(found).figures
    (log,) = found.output.glob("evaluations_*.jsonl")
    before = log.read_text()
    assert SubnetSearchStage().work(found).figures == first
    assert log.read_text() == before


def test_several_platforms_share_the_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platforms = {"desk": Platform(1.0, at_hand=True), "phone": Platform(10.0, at_hand=False)}
    monkeypatch.setattr("spaceevo.stages.subnet_search._platforms", lambda _: platforms)
    found = context(tmp_path)
    found.constraints_ms = lambda name: {"desk": [1.0], "phone": [10.0]}[name]
    figures = SubnetSearchStage().work(found).figures
    rows = figures["pareto_subnets"]
    assert {row["platform"] for row in rows} == {"desk", "phone"}
    assert figures["evaluations"] == 18  # both ask for the same: a tenth of the speed, ten times the limit
    for row in rows:
        assert (row["measured_ms"] is None) == (row["platform"] == "phone")


def test_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="method = 'best'; allowed: front, published"):
        SubnetSearchStage().work(context(tmp_path, method="best"))
    with pytest.raises(ConfigError, match="delta_ms = 5; allowed: above 0, up to the constraint 0.6 ms"):
        SubnetSearchStage().work(context(tmp_path, delta_ms=5))
    found = context(tmp_path)
    found.platform = SimpleNamespace(
        subnet_ms=BlockLatency(LatencyTable(), "table.json").predict, fastest=lambda member: None
    )
    with pytest.raises(TableError, match="latency table table.json lacks"):
        SubnetSearchStage().work(found)
    found = context(tmp_path)
    found.limits = [1.0, 0.01]
    fastest = rf"= 0.01 ms: the fastest subnet of {MEMBER} takes .* ms on desk \({MEMBER.smallest}\)"
    with pytest.raises(ConstraintError, match=fastest):
        SubnetSearchStage().work(found)
    assert not list(found.output.glob("evaluations_*"))
    found.platform = Platform(1.0, at_hand=True, knows_all=False)
    found.limits = [0.01]
    with pytest.raises(ConstraintError, match=r"latency in \[0, 0.01\] ms on desk; .* \(smallest\) to .* \(largest\)"):
        SubnetSearchStage().work(found)


def test_ties_go_to_what_other_subnets_speak_for() -> None:
    rng = Random(0)
    scores = {spec: float(len(spec.stages[2])) for spec in (sample_subnet(MEMBER, rng) for _ in range(60))}
    good, bad = MEMBER.largest, MEMBER.smallest
    scores |= {good: 9.0, bad: 9.0}
    assert most_accurate(MEMBER, [bad, good], scores, lambda _: 1.0) == good
    assert most_accurate(MEMBER, [bad, good], {**scores, bad: 9.1}, lambda _: 1.0) == bad


def test_jobs_of_a_sweep_become_one_front(tmp_path: Path) -> None:
    def row(ms: float, top1: float) -> dict[str, Any]:
        texts = {"subnet": f"{ms}", "platform": "desk", "asked_ms": "", "file": "00"}
        return {**texts, "latency_ms": ms, "measured_ms": None, "held_out_top1": top1, "top1": top1, "mmacs": 1.0}

    jobs = [[row(1.0, 50.0), row(2.0, 60.0)], [row(1.5, 70.0), row(3.0, 65.0)]]
    for number, rows in enumerate(jobs):
        (tmp_path / str(number)).mkdir()
        record = {"space": "digits-222-000", "front": rows, "limits_ms": {"desk": [2.0 + number]}}
        (tmp_path / str(number) / "front.json").write_text(json.dumps(record))
    merge_jobs(tmp_path)
    assert pd.read_csv(tmp_path / "front.csv").latency_ms.tolist() == [1.0, 1.5]
    assert (tmp_path / "front.png").exists()
    SubnetSearchStage().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "none")}}}))
    assert not (tmp_path / "none").exists()
