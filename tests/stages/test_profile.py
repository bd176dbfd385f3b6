"""Job profile on a bench without clocks: what is sampled, timed, taken up again, and when it works again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from spaceevo.artifacts import Layout, read_json
from spaceevo.errors import ConfigError
from spaceevo.jobs.runner import make_job
from spaceevo.latency.roofline import family_of
from spaceevo.latency.table import LatencyTable
from spaceevo.quant.program import Program
from spaceevo.runtimes.registry import RUNTIMES
from spaceevo.runtimes.timing import Timing
from spaceevo.space.description import superspace
from spaceevo.space.operators import sample_networks
from spaceevo.space.placement import PlacedBlock, block_key, subnet_blocks
from spaceevo.space.selection import parse_blocks
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages.measured import check_unseen
from spaceevo.stages.profile import ProfileJob, ProfileRecipe, Sample
from spaceevo.stages.profile_timings import Collections, ProfileTimings, Timed, sample_blocks
from tests.platforms.conftest import Desk, Fake
from tests.stages.conftest import Compose, MadeAnew, RunStage

DIGITS = superspace("digits")
ONNXW = superspace("onnxw")
SMALL = "{blocks: 20, networks: 3, unseen: 3, passes: 1, cpu_seconds: null, repeats: 1}"


class Watched(Fake):
    """A platform that notes, for all of its kind together, which blocks and networks it timed."""

    noted: list[str]
    slowness = 1.0

    def time_models(self, models: Mapping[str, bytes], repeats: int) -> dict[str, Timing]:
        self.noted += [name for name in models if not name.startswith("empty")]  # which only converts a tensor
        found = super().time_models(dict(models), repeats)
        return {name: it._replace(latency_ms=self.slowness * it.latency_ms) for name, it in found.items()}


class Killed(Fake):
    """A platform whose machine stops after a hundred models."""

    def time_models(self, models: Mapping[str, bytes], repeats: int) -> dict[str, Timing]:
        if len(self.timed) > 100:
            raise KeyboardInterrupt
        return super().time_models(dict(models), repeats)


@pytest.fixture(autouse=True)
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What platforms that are watched timed."""
    monkeypatch.setitem(RUNTIMES, "desk", Desk())
    found: list[str] = []
    monkeypatch.setattr(Watched, "noted", found, raising=False)
    return found


def test_every_family_has_its_share_of_blocks() -> None:
    found = sample_blocks(ONNXW, Random(0), 120)
    assert found == sample_blocks(ONNXW, Random(0), 120)
    assert len(found) == 120
    families = {family_of(spec) for spec, _ in found.values()}
    everything = [block for i in range(6) for block in smallest_blocks(ONNXW.member([i] * 6, [0] * 6))]
    assert families == {family_of(spec) for spec, _ in everything}


def smallest_blocks(member: SpaceMember) -> list[PlacedBlock]:
    return list(subnet_blocks(member, member.smallest))


def test_too_few_blocks_are_said() -> None:
    recipe = ProfileRecipe(blocks=60, networks=10, unseen=10, passes=1, cpu_seconds=None, repeats=1)
    assert len(Sample.of(DIGITS, 0, recipe).networks) == 10
    with pytest.raises(ConfigError, match=r"recipe\.profile\.blocks = 2 leaves out .*; set it higher"):
        Sample.of(DIGITS, 0, replace(recipe, blocks=2))


def test_unseen_networks_are_of_other_spaces() -> None:
    rng = Random(0)
    known = sample_networks(ONNXW, rng, 50)
    unseen = sample_networks(ONNXW, rng, 50, besides=known.values())
    assert not {str(m) for m, _ in known.values()} & {str(m) for m, _ in unseen.values()}
    assert len(sample_networks(DIGITS, rng, 120)) == 120


def test_a_killed_profile_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    blocks, networks = sample_blocks(DIGITS, Random(0), 70), sample_networks(DIGITS, Random(1), 5)
    collections: Collections = {"blocks": blocks, "networks": networks}
    file, first = tmp_path / "timings.json", Killed(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        ProfileTimings(first, file, "same", passes=5).measure(collections, repeats=2)
    second = Fake(tmp_path)
    resumed = ProfileTimings(second, file, "same", passes=5)
    resumed.measure(collections, repeats=2)
    assert len(first.timed) + len(second.timed) == 2 * 70 + 5 * 5  # blocks take part in every fourth pass
    assert resumed.collections["networks"].latency_ms.keys() == networks.keys()
    assert resumed.collections["blocks"].cpu_seconds > 0
    assert resumed.collections["blocks"].dispersion == 1.0
    assert ProfileTimings(second, file, "same", passes=5).collections == resumed.collections
    other = Fake(tmp_path)
    ProfileTimings(other, file, "other settings", passes=5).measure(collections, repeats=2)
    assert len(other.timed) == 2 * 70 + 5 * 5


@pytest.mark.parametrize(("budget_s", "passes"), [(None, 12), (0.0, 4), (1e6, 12)])
def test_no_pass_is_begun_beyond_the_budget(tmp_path: Path, budget_s: float | None, passes: int) -> None:
    networks = sample_networks(DIGITS, Random(1), 3)
    platform, file = Fake(tmp_path), tmp_path / "timings.json"
    for _ in range(2):
        timings = ProfileTimings(platform, file, "same", passes=12, budget_s=budget_s)
        timings.measure({"blocks": {}, "networks": networks}, repeats=1)
        assert len(platform.timed) == passes * len(networks)


def test_the_cost_of_a_pass_is_that_of_what_takes_part_and_models_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock_s = [0.0]

    class Working(Fake):
        """Takes ten seconds to make a model, and one to time it."""

        def compile(self, program: Program) -> bytes:
            clock_s[0] += 10
            return super().compile(program)

        def time_models(self, models: Mapping[str, bytes], repeats: int) -> dict[str, Timing]:
            clock_s[0] += len(models)
            return super().time_models(models, repeats)

    monkeypatch.setattr("spaceevo.stages.profile_timings.time.process_time", lambda: clock_s[0])
    blocks, networks = sample_blocks(DIGITS, Random(0), 5), sample_networks(DIGITS, Random(1), 3)
    # 30 to make, 8 for the first, fifth and ninth pass, 3 for others; four passes in any case
    for budget_s, expected_s in ((38, 47), (54, 47), (55, 55), (63, 61), (71, 64), (72, 72)):
        timings = ProfileTimings(Working(tmp_path), tmp_path / f"{budget_s}.json", "same", passes=9, budget_s=budget_s)
        timings.measure({"blocks": blocks, "networks": networks}, repeats=1)
        assert timings.profiling_s == expected_s


def test_the_faster_half_of_passes_counts_since_the_slower_may_be_disturbed() -> None:
    latency_ms = {"one": [2.0], "odd": [9.0, 3.0, 1.0], "even": [1.0, 8.0, 9.0, 2.0]}
    timed = Timed(timings={name: [(ms, 1.0) for ms in taken] for name, taken in latency_ms.items()})
    assert timed.latency_ms == {"one": 2.0, "odd": 2.0, "even": 1.5}


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Settings of a small profile of a platform that is watched."""
    platform = ["trust=true", f"platform._target_={__name__}.Watched", "~platform.runtime", "platform.name=fake"]
    return ["superspace=digits", *platform, f"platform.table={tmp_path / 'fake.json'}", f"recipe.profile={SMALL}"]


@pytest.mark.slow
def test_a_profile_lasts_until_something_changes(
    run_stage: RunStage, compose: Compose, made_anew: MadeAnew, given: list[str], noted: list[str], tmp_path: Path
) -> None:
    result = run_stage("profile", *given)
    table = LatencyTable.load(tmp_path / "fake.json")
    assert table.provenance["networks"] == 3
    assert result.figures["measured_blocks"] == len(table.entries) == 20
    assert not made_anew(compose("profile", *given))
    table.entries["another"] = 7.0
    table.save(tmp_path / "fake.json")
    assert not made_anew(compose("profile", *given))
    first = next(iter(table.entries))
    table.entries[first] *= 3
    table.save(tmp_path / "fake.json")
    noted.clear()
    assert made_anew(compose("profile", *given))
    assert noted == []  # the timings are still of the same platform and settings
    assert LatencyTable.load(tmp_path / "fake.json").entries[first] == pytest.approx(table.entries[first] / 3)
    assert made_anew(compose("profile", *given, "seed=5"))
    assert noted
    assert made_anew(compose("profile", *given, "recipe.profile.blocks=25"))


@pytest.mark.parametrize(
    "deciding", [[], pytest.param(["force=true", "recipe.profile.repeats=2"], marks=pytest.mark.slow)]
)
def test_timings_are_taken_up_under_the_same_fingerprint_alone(
    run_stage: RunStage, given: list[str], noted: list[str], tmp_path: Path, deciding: list[str]
) -> None:
    output = tmp_path / "runs/profile"

    def timed(*overrides: str) -> int:
        noted.clear()
        (output / "result.json").unlink(missing_ok=True)
        run_stage("profile", *given, *overrides)
        return len(noted)

    assert timed() == 26
    assert timed() == 0
    assert timed("+platform.machine=B") == 26
    for setting in deciding:
        assert timed(setting) == 26
    (output / "timings.json").write_text('{"mark": "an earlier version"}')
    assert timed("+platform.machine=B") == 26
    assert read_json(output / "timings.json")["collections"].keys() == {"blocks", "networks", "unseen networks"}


@pytest.mark.slow
def test_a_new_profile_makes_what_rests_on_it_anew(
    run_stage: RunStage,
    compose: Compose,
    made_anew: MadeAnew,
    given: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resting = compose("predict_latency", *given, "space=digits-012-000", "subnet=min")
    run_stage("profile", *given)
    assert made_anew(resting)
    run_stage("profile", *given, "force=true")
    assert not made_anew(resting)  # the same figures
    monkeypatch.setattr(Watched, "slowness", 2.0)
    run_stage("profile", *given, "force=true")
    assert made_anew(resting)


@pytest.mark.parametrize("are_distilled", [False, True])
def test_the_next_command_is_of_the_same_platform_and_can_run(
    compose: Compose, given: list[str], tmp_path: Path, are_distilled: bool
) -> None:
    config = compose("profile", *given, f"paths.checkpoints={tmp_path}")
    for stage, index in parse_blocks(superspace("digits"), "all") if are_distilled else ():
        path = Layout(tmp_path).block("digits", stage, index, int8=True)
        path.parent.mkdir(parents=True)
        path.touch()
    job = make_job(config)
    assert isinstance(job, ProfileJob)
    words = job.next_command().split()
    assert words[3:4] == (["+stage=block_lut"] if are_distilled else [])
    assert ("platform.name=fake" in words) == are_distilled


def test_warnings_of_the_platform_are_told_once(
    compose: Compose, given: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    LatencyTable({"x": 1.0}, {"machine": "elsewhere"}).save(tmp_path / "fake.json")
    job = make_job(compose("profile", *given))
    job.inputs()
    job.inputs()
    assert caplog.text.count("was measured on elsewhere, ") == 1
    assert "+stage=profile, with no table set, measures this one" in caplog.text


def test_a_table_cannot_be_measured(run_stage: RunStage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="platform = vnni cannot be measured; allowed: ort_cpu, openvino_cpu, "):
        run_stage("profile", "superspace=digits", "platform=vnni", f"platform.table={tmp_path / 'table.json'}")


@pytest.mark.parametrize(("off", "told"), [(1.1, False), (1.5, True)])
def test_a_poor_fit_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], off: float, told: bool) -> None:
    networks = sample_networks(DIGITS, Random(0), 3)
    table = LatencyTable({block_key(*block): 1.0 for network in networks.values() for block in subnet_blocks(*network)})
    sums = {name: float(len(subnet_blocks(*network))) for name, network in networks.items()}
    timed = Timed(timings={name: [(ms / off, 1.0)] for name, ms in sums.items()})
    error, _ = check_unseen(table, timed, networks, tmp_path, "poor")
    assert error.mape_percent == pytest.approx(100 * (off - 1))
    assert ("off by 50 % on average: measure again" in capsys.readouterr().out) == told
