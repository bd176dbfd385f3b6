"""The job's decisions, on a supernet of random weights: limits, ranges, platforms, files, faults."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import ClassVar

import pandas as pd
import pytest
import torch

from spaceevo.artifacts import Front, FrontSubnet
from spaceevo.errors import ConfigError, ConstraintError, TableError
from spaceevo.jobs.runner import make_job
from spaceevo.latency.table import LatencyTable
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.subnets import read_subnet
from spaceevo.nn.supernet import Supernet
from spaceevo.platforms.base import Platform
from spaceevo.platforms.measuring import BLOCKS
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.program import Program
from spaceevo.runtimes.random_program import random_program
from spaceevo.runtimes.tflm.memory import arena_bytes
from spaceevo.space.cost import subnet_cost
from spaceevo.space.description import superspace
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.operators import sample_subnet
from spaceevo.space.placement import PlacedBlock, block_key, subnet_blocks
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.front_files import fastest_platforms, merge_fronts
from spaceevo.stages.front_search import Found, most_accurate
from spaceevo.stages.subnet_figures import SubnetFigures
from spaceevo.stages.subnet_search import SubnetSearchJob
from tests.runtimes.conftest import irregular
from tests.stages.conftest import CLASSES, Compose, RunStage, World, work_of

DIGITS = superspace("digits")
MEMBER = DIGITS.member((2, 2, 2), (0, 0, 0))
RECIPE = (
    "recipe.subnet_search.front={population: 8, generations: 3, children: 5}",
    "recipe.subnet_search.evolution={population: 8, generations: 2, mutants: 3, crossovers: 2}",
    "recipe.subnet_search.tested=3",
)


class Desk(Platform):
    """A platform at hand, on which everything takes 5 % longer than predicted."""

    machine = "desk"

    def measured_ms(self, models: Mapping[str, Program]) -> dict[str, float]:
        return {text: 1.05 * self.subnet_ms(MEMBER, SubnetSpec.parse(text)) for text in models}


class Vague(Desk):
    """A platform that does not know all blocks of the space yet."""

    def fastest(self, member: SpaceMember) -> None:
        return None


class Measuring(Desk):
    """A platform that would measure every block once, and writes down which it measures together."""

    together: ClassVar[list[set[str]]] = []

    def unmeasured(self, blocks: Iterable[PlacedBlock]) -> set[str]:
        return {block_key(*block) for block in blocks}.difference(*self.together)

    def ensure(self, blocks: Iterable[PlacedBlock]) -> None:
        self.together.append(self.unmeasured(blocks))


@pytest.fixture
def given(world: World) -> list[str]:
    """Settings of a search in an INT8 supernet, on a platform at hand."""
    torch.manual_seed(0)
    supernet = Supernet(MEMBER)
    set_quant(supernet, True)
    for spec in (MEMBER.smallest, MEMBER.largest):
        supernet.activate(spec)
        supernet(torch.randn(20, 3, 32, 32))
    path = world.layout.supernet(str(MEMBER), True)
    save_checkpoint(path, supernet, CheckpointMeta(space=str(MEMBER), classes=CLASSES, quant="deploy"))
    desk = ["trust=true", f"platform._target_={Desk.__module__}.Desk", "platform.name=desk"]
    return [*world.settings, "quant=deploy", f"space={MEMBER}", *desk, *RECIPE]


@pytest.fixture
def limits(world: World) -> list[float]:
    """Two latency limits in ms, the looser first."""
    platform = Platform("desk", str(world.table))
    fastest, slowest = (platform.subnet_ms(MEMBER, spec) for spec in (MEMBER.smallest, MEMBER.largest))
    return [round(fastest + share * (slowest - fastest), 3) for share in (0.6, 0.25)]


def front_of(world: World) -> Front:
    return Front.read(world.layout.subnet_search(str(MEMBER)) / "front.json")


@pytest.mark.parametrize("method", ["front", pytest.param("published", marks=pytest.mark.slow)])
def test_each_limit_has_its_subnet(
    run_stage: RunStage, world: World, given: list[str], limits: list[float], method: str
) -> None:
    result = run_stage("subnet_search", *given, f"latency_constraint={limits}", f"recipe.subnet_search.method={method}")
    front, platform = front_of(world), Platform("desk", str(world.table))
    chosen = front.chosen_by_limit["desk"]
    assert list(chosen) == [f"{limit:g}" for limit in limits]
    assert front.chosen == chosen[f"{limits[0]:g}"] == result.figures["chosen_subnet"]
    for limit, text in chosen.items():
        assert platform.subnet_ms(MEMBER, SubnetSpec.parse(text)) <= float(limit)
    rows = pd.read_csv(result.outputs["front"])
    assert rows.subnet.tolist() == [row.subnet for row in front.front]
    assert set(rows.subnet) >= set(chosen.values())
    assert (rows.measured_ms / rows.latency_ms).tolist() == pytest.approx([1.05] * len(rows))
    assert result.figures["front_within_10_percent"] == 100.0
    assert result.figures["evaluations"] <= (18 if method == "front" else 2 * 13)
    assert Path(result.outputs["picture"]).stat().st_size > 1000
    told, evaluated = work_of(world.root.parent / "runs" / "subnet_search")["evaluated subnets"]
    assert result.figures["evaluations"] <= evaluated <= told == (18 if method == "front" else 2 * 13)


def test_a_limit_of_its_own_lies_where_it_is_asked_for(run_stage: RunStage, world: World, given: list[str]) -> None:
    result = run_stage("subnet_search", *given, "latency_constraint=auto", "recipe.auto_point=0.85")
    platform = Platform("desk", str(world.table))
    fastest_ms, slowest_ms = (platform.subnet_ms(MEMBER, spec) for spec in (MEMBER.smallest, MEMBER.largest))
    asked_ms = fastest_ms + 0.85 * (slowest_ms - fastest_ms)
    assert result.figures["latency_constraint_ms"] == pytest.approx(asked_ms, rel=0.01)  # three digits of it


def test_blocks_are_measured_together_before_the_search(
    run_stage: RunStage, compose: Compose, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Measuring, "together", [])
    asked = [*given, f"platform._target_={__name__}.Measuring", "latency_constraint=auto"]
    job = job_of(compose, *asked)
    amounts, (scale,) = job.amounts(), job.scales()
    run_stage("subnet_search", *asked)
    (measured,) = Measuring.together
    assert amounts[BLOCKS].times == len(measured)
    rng = Random(f"{job.settings.seed}-blocks")  # 4 × 8 of the first generation, and 2 × 5 × 4 more
    drawn = [subnet_blocks(MEMBER, sample_subnet(MEMBER, rng)) for _ in range(4 * 8 + 2 * 5 * 4)]
    assert measured == {block_key(*block) for blocks in drawn for block in blocks}
    fewer = {block_key(*block) for blocks in drawn[: 4 * 2 + 10] for block in blocks}
    assert scale.share(BLOCKS, 2 / 8) == len(fewer) / len(measured)
    assert job_of(compose, *asked).amounts()[BLOCKS].times == 0  # all are known now


def test_blocks_of_resolutions_with_tables_are_not_foreseen(compose: Compose, given: list[str]) -> None:
    """A chain measures them for its tables, before it finds the space."""
    asked = [word for word in given if not word.startswith("space=")] + [f"platform._target_={__name__}.Measuring"]
    foreseen = []
    for resolutions in ([8, 16], [8, 16, 24, 32]):
        changes = ["superspace.resolutions.block=[24,32]", f"superspace.resolutions.supernet={resolutions}"]
        foreseen.append(job_of(compose, *asked, *changes).amounts()[BLOCKS].times)
    assert foreseen[0] > foreseen[1] > 0  # half of the subnets drawn count


def job_of(compose: Compose, *asked: str) -> SubnetSearchJob:
    job = make_job(compose("subnet_search", *asked))
    assert isinstance(job, SubnetSearchJob)
    return job


@pytest.mark.slow
def test_every_shown_subnet_is_extracted(
    run_stage: RunStage, compose: Compose, world: World, given: list[str], limits: list[float]
) -> None:
    asked = [*given, f"latency_constraint={limits[0]}"]
    run_stage("subnet_search", *asked)
    job = make_job(compose("subnet_search", *asked))
    assert isinstance(job, SubnetSearchJob)
    for row in front_of(world).front:
        assert row.int8_file is not None
        subnet = read_subnet(Path(row.int8_file), DIGITS, "")
        assert (str(subnet.spec), subnet.quant, subnet.classes) == (row.subnet, "deploy", ("a", "b", "c"))
        hits = [subnet.network(images).argmax(1) == labels for images, labels in job.data.test()]
        assert 100 * float(torch.cat(hits).double().mean()) == pytest.approx(row.top1)


def test_a_second_run_evaluates_nothing_and_finds_the_same(
    run_stage: RunStage, given: list[str], limits: list[float], tmp_path: Path
) -> None:
    asked = [*given, f"latency_constraint={limits[0]}"]
    first = run_stage("subnet_search", *asked).figures
    output = tmp_path / "runs/subnet_search"
    (log,) = output.glob("evaluations_*.jsonl")
    before = log.read_text()
    (output / "result.json").unlink()
    assert run_stage("subnet_search", *asked).figures == first
    assert log.read_text() == before
    log.write_text(before.splitlines()[0] + "\n")
    assert run_stage("subnet_search", *asked, "force=true").figures == first
    assert log.read_text() == before


@pytest.mark.slow
def test_evaluations_last_as_long_as_what_decides_them(
    run_stage: RunStage, world: World, given: list[str], limits: list[float], tmp_path: Path
) -> None:
    def logs() -> set[str]:
        return {path.name for path in (tmp_path / "runs/subnet_search").glob("evaluations_*.jsonl")}

    asked = [*given, f"latency_constraint={limits[0]}"]
    run_stage("subnet_search", *asked)
    run_stage("subnet_search", *given, f"latency_constraint={limits[1]}")
    assert len(logs()) == 1
    run_stage("subnet_search", *asked, "data.calibration_batch_size=7")
    assert len(logs()) == 2
    shutil.move(world.images / "train/a/0.png", world.images / "train/b/relabelled.png")
    run_stage("subnet_search", *asked)
    assert len(logs()) == 3


@pytest.mark.slow
def test_several_platforms_share_the_evaluations(
    run_stage: RunStage, world: World, given: list[str], limits: list[float]
) -> None:
    slower = LatencyTable.load(world.table)
    slower.entries = {key: 10 * ms for key, ms in slower.entries.items()}
    slower.save(world.root / "phone.json")
    both = ["+platform@platforms.desk=vnni", "+platform@platforms.phone=vnni"]
    both += [f"platforms.desk.table={world.table}", f"platforms.phone.table={world.root / 'phone.json'}"]
    both += [f"platforms.desk._target_={Desk.__module__}.Desk", "platforms.phone.name=phone"]
    asked = f"latency_constraint={{desk: {limits[0]}, phone: {10 * limits[0]}}}"
    figures = run_stage("subnet_search", *given, *both, asked).figures
    rows = figures["pareto_subnets"]
    assert {row["platform"] for row in rows} == {"desk", "phone"}
    assert figures["evaluations"] == 18  # both ask for the same: a tenth of the speed, ten times the limit
    for row in rows:
        assert (row["measured_ms"] is None) == (row["platform"] == "phone")


def test_faults_are_named(
    run_stage: RunStage, world: World, given: list[str], limits: list[float], tmp_path: Path
) -> None:
    def search(*more: str) -> None:
        run_stage("subnet_search", *given, f"latency_constraint={limits}", *more)

    with pytest.raises(ConfigError, match="method = best; allowed: front, published"):
        search("recipe.subnet_search.method=best")
    with pytest.raises(ConfigError, match="delta_ms = 500; allowed: above 0, up to the constraint"):
        search("recipe.subnet_search.delta_ms=500")
    fastest = rf"= 0.01 ms: the fastest subnet of {MEMBER} takes .* ms on desk \({MEMBER.smallest}\)"
    with pytest.raises(ConstraintError, match=fastest):
        search(f"latency_constraint=[{limits[0]},0.01]")
    assert not list((tmp_path / "runs").rglob("evaluations_*"))
    with pytest.raises(ConstraintError, match=r"latency in \[0, 0.01\] ms on desk; .* \(smallest\) to .* \(largest\)"):
        search("latency_constraint=0.01", f"platform._target_={Desk.__module__}.Vague")
    LatencyTable().save(world.table)
    with pytest.raises(TableError, match="latency table .*table.json lacks"):
        search()


def peak_ram_kb(spec: SubnetSpec) -> float:
    return arena_bytes(irregular(random_program(subnet_blocks(MEMBER, spec)))) / 1e3


@pytest.mark.parametrize("method", ["front", pytest.param("published", marks=pytest.mark.slow)])
def test_every_subnet_keeps_limits_of_every_kind(
    run_stage: RunStage, world: World, given: list[str], limits: list[float], tmp_path: Path, method: str
) -> None:
    ram_kb = round((peak_ram_kb(MEMBER.smallest) + peak_ram_kb(MEMBER.largest)) / 2, 1)
    asked = [f"latency_constraint={limits}", f"limit.peak_ram_kb={ram_kb}", "limit.mparams=0.09"]
    figures = run_stage("subnet_search", *given, *asked, f"recipe.subnet_search.method={method}").figures
    front, platform = front_of(world), Platform("desk", str(world.table))
    assert list(front.chosen_by_limit["desk"]) == [f"{ms:g}ms+0.09mparams+{ram_kb:g}peak_ram_kb" for ms in limits]
    (log,) = (tmp_path / "runs/subnet_search").glob("evaluations_*.jsonl")
    evaluated = [SubnetSpec.parse(json.loads(line)[0]) for line in log.read_text().splitlines()]
    for spec in evaluated:  # not one that breaks a limit was even looked at
        assert platform.subnet_ms(MEMBER, spec) <= limits[0]
        assert subnet_cost(MEMBER, spec).mparams <= 0.09
        assert peak_ram_kb(spec) <= ram_kb
    assert {row.subnet for row in front.front} <= set(map(str, evaluated))
    for row in front.front:
        assert row.peak_ram_kb == pytest.approx(peak_ram_kb(SubnetSpec.parse(row.subnet)))
        assert row.file_kb is None
    assert figures["limits"].startswith(f"{limits[0]:g} ms, 0.09 MParams, ")
    assert figures["chosen_peak_ram_kb"] <= ram_kb


def test_without_a_limit_on_latency_no_platform_is_asked(
    run_stage: RunStage, world: World, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mmacs = [subnet_cost(MEMBER, spec).mmacs for spec in (MEMBER.smallest, MEMBER.largest)]
    bounds = [round(mmacs[0] + share * (mmacs[1] - mmacs[0]), 2) for share in (0.5, 0.2)]
    nowhere = [f"platform.table={tmp_path / 'none.json'}", f"limit.mmacs={bounds}"]
    result = run_stage("subnet_search", *given, *nowhere)
    front = front_of(world)
    assert (front.axis, front.limits_ms, list(front.chosen_by_limit)) == ("mmacs", {"any": ()}, ["any"])
    for bound, subnet in zip(bounds, front.chosen_by_limit["any"].values(), strict=True):
        assert subnet_cost(MEMBER, SubnetSpec.parse(subnet)).mmacs <= bound
    rows = pd.read_csv(result.outputs["front"])
    assert f"{bounds[0]:g} MMACs" in capsys.readouterr().out
    assert rows.latency_ms.isna().all()
    assert rows.mmacs.is_monotonic_increasing
    assert (rows.mmacs <= bounds[0]).all()
    assert not [name for name in result.inputs if name.startswith("platform")]
    assert Path(result.outputs["picture"]).stat().st_size > 1000


def test_limits_that_nothing_keeps_are_told(run_stage: RunStage, given: list[str], limits: list[float]) -> None:
    def search(*more: str) -> None:
        run_stage("subnet_search", *given, *more)

    least = subnet_cost(MEMBER, MEMBER.smallest).mmacs
    fault = rf"limit.mmacs = 0.01: .* so few MMACs; the least is {least:.4g} \({MEMBER.smallest}\); set it higher"
    with pytest.raises(ConstraintError, match=fault):
        search("limit.mmacs=0.01")
    with pytest.raises(ConstraintError, match=r"limit.file_kb = 9: .* so few kB of file; the least is \d+"):
        search("limit.file_kb=9", f"latency_constraint={limits[0]}")
    with pytest.raises(ConfigError, match="latency_constraint and limit.mmacs are lists; allowed: one list"):
        search("limit.mmacs=[1,2]", f"latency_constraint={limits}")
    with pytest.raises(ConfigError, match="delta_ms = 5; allowed: null where latency is not limited"):
        search("limit.mmacs=1", "recipe.subnet_search.delta_ms=5")
    with pytest.raises(ConfigError, match="limit.mparams = 0; allowed: above 0"):
        search("limit.mparams=0")


def test_ties_go_to_what_other_subnets_speak_for() -> None:
    rng = Random(0)
    scores = {spec: float(len(spec.stages[2])) for spec in (sample_subnet(MEMBER, rng) for _ in range(60))}
    good, bad = MEMBER.largest, MEMBER.smallest
    scores |= {good: 9.0, bad: 9.0}
    assert most_accurate([bad, good], scores, lambda _: 1.0) == good
    assert most_accurate([bad, good], {**scores, bad: 9.1}, lambda _: 1.0) == bad


def test_jobs_of_a_sweep_become_one_front(tmp_path: Path) -> None:
    def row(ms: float, top1: float) -> FrontSubnet:
        return FrontSubnet("desk", f"{ms}", "", ms, None, top1, top1, 1.0, 1.0, "00")

    jobs = [[row(1.0, 50.0), row(2.0, 60.0)], [row(1.5, 70.0), row(3.0, 65.0)], [row(0.5, 99.0)]]
    for number, rows in enumerate(jobs):
        limits = {"desk": (2.0 + number,)}
        front = Front("digits-222-000", "1.0", tuple(rows), limits["desk"], limits, {})
        front.write(tmp_path / str(number) / "front.json")
    merge_fronts(tmp_path, [tmp_path / "0", tmp_path / "1"])  # the third is of an earlier sweep
    merged = pd.read_csv(tmp_path / "front.csv")
    assert merged.latency_ms.tolist() == [1.0, 1.5]
    assert set(merged.space) == {"digits-222-000"}
    assert (tmp_path / "front.png").exists()
    SubnetSearchJob.merge_sweep(tmp_path / "none", [tmp_path / "none/0"])
    assert not (tmp_path / "none").exists()


def test_the_fastest_platform_of_each_subnet_is_told_on_one_machine_alone() -> None:
    small, large = MEMBER.smallest, MEMBER.largest
    times = {"ort": {small: 1.0, large: 3.0}, "openvino": {small: 2.0, large: 2.0}}

    class Known(SubnetFigures):
        def latency_ms(self, spec: SubnetSpec) -> float:
            return times[self.platform_name][spec]

    fronts = [Found(Known(MEMBER, None, (), name), (), {}, [], {}) for name in times]
    desk, other = (SimpleNamespace(machine=name, measured_ms=dict) for name in ("desk", "phone"))
    told = fastest_platforms([small, large], fronts, {"ort": desk, "openvino": desk})
    assert told == {str(small): "ort", str(large): "openvino"}
    assert fastest_platforms([small], fronts, {"ort": desk, "openvino": other}) == {}
    assert fastest_platforms([small], fronts, {"ort": desk, "openvino": object()}) == {}
    assert fastest_platforms([small], fronts[:1], {"ort": desk}) == {}
