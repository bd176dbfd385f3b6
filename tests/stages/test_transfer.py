"""Job transfer on benches without clocks: the table it leaves, when it works again, and what it refuses."""

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from spaceevo.artifacts import read_json
from spaceevo.artifacts.work import Extent
from spaceevo.errors import SpaceEvoError
from spaceevo.jobs.runner import make_job
from spaceevo.jobs.trial import shortened_words
from spaceevo.latency.roofline import Correction, Roofline, family_of
from spaceevo.latency.table import LatencyTable
from spaceevo.latency.transfer import Transfer
from spaceevo.platforms.measuring import MeasuringPlatform
from spaceevo.runtimes.base import Runtime
from spaceevo.runtimes.registry import RUNTIMES
from spaceevo.runtimes.timing import Timing
from spaceevo.space.description import superspace
from spaceevo.space.operators import sample_networks
from spaceevo.space.placement import subnet_blocks
from spaceevo.stages.transfer import TransferJob
from tests.platforms.conftest import Bench, Desk
from tests.stages.conftest import Compose, MadeAnew, RunStage, work_of

DIGITS = superspace("digits")
MEMBERS = [DIGITS.member([index] * 3, [0] * 3) for index in range(len(DIGITS.candidates))]
FAMILIES = sorted({family_of(spec) for member in MEMBERS for spec, _ in subnet_blocks(member, member.smallest)})
COSTS = {name: {"constant": 0.5 + 0.1 * n, "layers": 1.0} for n, name in enumerate(FAMILIES)}
HERE = {"machine": "A", "instructions": "avx2", "version": "1", "superspace": "digits"}
ELSEWHERE = {"platform": "known", **HERE, "runtime": "this"}


class Watched(Bench):
    """A bench that says which runtime it runs, and notes, for all benches together, what it timed."""

    noted: list[str]
    ends_after = 1000  # models

    def __init__(self, runtime: str) -> None:
        super().__init__()
        self.runtime = runtime

    def provenance(self, runtime: Runtime) -> dict[str, str]:
        return {**HERE, "runtime": self.runtime, "date": "today"}

    def time_models(self, runtime: Runtime, models: Mapping[str, bytes], repeats: int) -> dict[str, Timing]:
        if len(self.noted) + len(models) > self.ends_after:
            raise KeyboardInterrupt
        self.noted += models
        return super().time_models(runtime, models, repeats)


class On(MeasuringPlatform):
    """A platform on such a bench."""

    def __init__(self, name: str, cache: str, superspace: str, on: str, **settings: Any) -> None:
        super().__init__(name, "desk", superspace, cache, place=Watched(on), **settings)


@pytest.fixture(autouse=True)
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What benches timed."""
    monkeypatch.setitem(RUNTIMES, "desk", Desk())
    found: list[str] = []
    monkeypatch.setattr(Watched, "noted", found, raising=False)
    return found


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Settings of a transfer from the platform `known` to the platform `new`, small."""
    words = ["superspace=digits", "trust=true", "recipe.transfer={networks: 5, unseen: 4, passes: 2, repeats: 1}"]
    for place, name, on in (("platform", "new", "other"), ("source", "known", "this")):
        words += [f"{place}._target_={__name__}.On", f"~{place}.runtime", f"+{place}.on={on}", f"{place}.name={name}"]
        words.append(f"{place}.table={tmp_path / name}.json")
    return words


def profiled(path: Path, **changes: Any) -> LatencyTable:
    """Write the table of the platform `known`."""
    table = LatencyTable({"block": 1.0}, ELSEWHERE, model=Roofline(COSTS), correction=Correction(1.25, 0.5))
    for name, value in changes.items():
        setattr(table, name, value)
    table.save(path)
    return table


def test_a_table_is_made_of_another_and_some_networks(
    run_stage: RunStage, given: list[str], tmp_path: Path, noted: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    known = profiled(tmp_path / "known.json", provenance={**ELSEWHERE, "superspace": "small"})
    with caplog.at_level("WARNING"):
        result = run_stage("transfer", *given)
    assert caplog.text.count("was made for superspace small, not digits") == 1
    assert work_of(tmp_path / "runs/transfer") == {"models made": (9, 9), "timings of models": (18, 18)}
    assert len(noted) == 18
    assert all(" " in name for name in noted)  # whole networks alone
    timings = read_json(tmp_path / "runs/transfer/timings.json")["collections"]["networks"]["timings"]
    networks = sample_networks(DIGITS, Random(0), 5)
    placed = [subnet_blocks(*network) for network in networks.values()]
    expected = Transfer.fit(known, placed, [timings[name][0][0] for name in networks])
    table = LatencyTable.load(tmp_path / "new.json")
    assert table.entries == {}
    assert table.model == expected.table.model
    assert table.correction == expected.table.correction
    assert table.correction.scale == 1.25
    told = {"platform": "new", "runtime": "other", "transferred_from": "known", "measured_blocks": 0, "networks": 4}
    assert told.items() <= table.provenance.items()
    assert table.provenance["source_table"] == str(tmp_path / "known.json")
    assert table.provenance["measured_networks"] == 5
    assert result.figures["within_10_percent"] == table.provenance["within_10_percent"]


def test_others_predict_by_it(run_stage: RunStage, given: list[str], tmp_path: Path, noted: list[str]) -> None:
    profiled(tmp_path / "known.json")
    run_stage("transfer", *given)
    noted.clear()
    new = [word for word in given if "source" not in word and "recipe" not in word]
    found = run_stage("predict_latency", *new, "space=digits-012-000", "subnet=min")
    assert noted == []
    member = DIGITS.member([0, 1, 2], [0] * 3)
    table = LatencyTable.load(tmp_path / "new.json")
    model, correction = table.model, table.correction
    assert model is not None
    blocks = subnet_blocks(member, member.smallest)
    assert found.figures["latency_ms"] == pytest.approx(
        sum(correction.block_ms(model.block_ms(*block), *block) for block in blocks)
    )


def test_it_lasts_until_something_changes(
    compose: Compose, made_anew: MadeAnew, given: list[str], tmp_path: Path, noted: list[str]
) -> None:
    known = profiled(tmp_path / "known.json")
    config = compose("transfer", *given)
    assert made_anew(config)
    first = LatencyTable.load(tmp_path / "new.json")
    assert not made_anew(config)
    known.entries["measured since"] = 2.0
    known.save(tmp_path / "known.json")
    assert not made_anew(config)
    noted.clear()
    profiled(tmp_path / "known.json", correction=Correction(2.5, 0.5))
    first.entries["measured since"] = 7.0
    first.save(tmp_path / "new.json")
    assert made_anew(config)
    assert noted == []  # the networks are the same
    again = LatencyTable.load(tmp_path / "new.json")
    assert again.entries == {"measured since": 7.0}
    assert again.correction.scale == 2.5
    assert again.provenance["source_digest"] != first.provenance["source_digest"]
    assert not made_anew(config)
    assert made_anew(compose("transfer", *given, "seed=1"))
    assert len(noted) == 18


def test_a_killed_one_goes_on_and_times_nothing_twice(
    run_stage: RunStage, given: list[str], tmp_path: Path, noted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    profiled(tmp_path / "known.json")
    monkeypatch.setattr(Watched, "ends_after", 15)
    with pytest.raises(KeyboardInterrupt):
        run_stage("transfer", *given)
    assert 9 < len(noted) < 18
    assert not (tmp_path / "new.json").exists()
    monkeypatch.setattr(Watched, "ends_after", 1000)
    run_stage("transfer", *given)
    assert len(noted) == 18
    assert LatencyTable.load(tmp_path / "new.json").model is not None


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model": None}, r"source = known was not profiled: .* has no fitted model; make it with: .*\+stage=profile "),
        ({"provenance": ELSEWHERE | {"machine": "B"}}, "was measured on machine B .*platform = new is on A; allowed"),
        ({"provenance": ELSEWHERE | {"instructions": "amx_int8"}}, "on instructions amx_int8 .*is on avx2; allowed"),
        ({"provenance": {}}, "was measured on machine unknown"),
        (
            {"provenance": ELSEWHERE | {"runtime": "other"}},
            r"source = known is platform = new itself; allowed: another",
        ),
        (
            {"provenance": ELSEWHERE | {"transferred_from": "first"}},
            "was itself told from first .*platform@source=first",
        ),
        ({"model": Roofline({FAMILIES[0]: COSTS[FAMILIES[0]]})}, f"knows no {FAMILIES[1]}, .* of superspace digits; "),
    ],
)
def test_what_tells_nothing_of_the_platform_is_refused(
    run_stage: RunStage, given: list[str], tmp_path: Path, noted: list[str], changes: dict[str, Any], fault: str
) -> None:
    profiled(tmp_path / "known.json", **changes)
    with pytest.raises(SpaceEvoError, match=fault):
        run_stage("transfer", *given)
    assert noted == []


def test_a_source_without_a_table_is_told_how_to_get_one(run_stage: RunStage, given: list[str], tmp_path: Path) -> None:
    with pytest.raises(SpaceEvoError, match="source = known was not profiled: .* does not exist; ") as raised:
        run_stage("transfer", *given, "source.unknown_blocks=measure")
    _, _, command = str(raised.value).partition("make it with: ")
    words = command.split()
    assert {"+stage=profile", "platform=known", "platform.unknown_blocks=measure", "platform.name=known"} <= {*words}
    assert f"platform.table={tmp_path / 'known.json'}" in words
    assert not any(word.lstrip("+").startswith(("source", "platform.on=other")) for word in words)


def test_a_source_of_another_superspace_is_told_how_to_profile_that(run_stage: RunStage, given: list[str]) -> None:
    with pytest.raises(SpaceEvoError, match="source = known was not profiled: ") as raised:
        run_stage("transfer", *given, "source.superspace=small")
    words = str(raised.value).partition("make it with: ")[2].split()
    assert [word for word in words if "superspace" in word] == ["superspace=small"]


def test_a_source_of_no_superspace_is_refused(run_stage: RunStage, given: list[str]) -> None:
    with pytest.raises(SpaceEvoError, match=r"source.superspace = nosuch is an unknown superspace; allowed: digits, "):
        run_stage("transfer", *given, "source.superspace=nosuch")


@pytest.mark.parametrize("name", ["none", "vnni", "pixel4"])
@pytest.mark.parametrize("place", ["platform", "source"])
def test_what_cannot_be_measured_is_refused_before_its_table_is_looked_for(
    run_stage: RunStage, given: list[str], tmp_path: Path, place: str, name: str
) -> None:
    profiled(tmp_path / "known.json")
    words = [word for word in given if f"{place}." not in word]
    group = "platform" if place == "platform" else "platform@source"
    with pytest.raises(SpaceEvoError, match=f"^{place} = {name} cannot be measured; allowed: ort_cpu, openvino_cpu, "):
        run_stage("transfer", *words, f"{group}={name}")


def test_faults_of_the_source_name_its_settings(run_stage: RunStage, given: list[str], tmp_path: Path) -> None:
    (tmp_path / "known.json").write_text("{")
    with pytest.raises(SpaceEvoError, match=r"known\.json .*; delete it or set source\.table$"):
        run_stage("transfer", *given)
    (tmp_path / "known.json").unlink()
    (tmp_path / "known.json").mkdir()
    with pytest.raises(SpaceEvoError, match=r"set source\.table, or platform@source=ort_cpu to measure blocks$"):
        run_stage("transfer", *given)
    (tmp_path / "new.json").write_text("{")
    with pytest.raises(SpaceEvoError, match=r"new\.json .*; delete it or set platform\.table$"):
        run_stage("transfer", *given)


def test_the_platform_itself_is_told_of_two_runtimes_in_the_users_words(
    run_stage: RunStage, given: list[str], tmp_path: Path
) -> None:
    profiled(tmp_path / "known.json", provenance=ELSEWHERE | {"runtime": "other"})
    with pytest.raises(SpaceEvoError, match="source = known is platform = new itself") as raised:
        run_stage("transfer", *given)
    words = str(raised.value).partition("as in: ")[2].split()
    assert {"+stage=transfer", "superspace=digits", f"paths.root={tmp_path / 'runs'}"} <= {*words}
    assert {"platform=openvino_cpu", "platform@source=ort_cpu"} <= {*words}
    assert not any(word.lstrip("+~").startswith(("platform.", "source.")) for word in words)


@pytest.mark.parametrize(("model", "has"), [(None, "blocks .*json"), (Roofline(COSTS), "blocks and a model of")])
def test_what_was_measured_of_the_platform_itself_is_not_replaced(
    run_stage: RunStage, given: list[str], tmp_path: Path, model: Roofline | None, has: str
) -> None:
    profiled(tmp_path / "known.json")
    LatencyTable({"block": 1.0}, {"platform": "new", **HERE, "runtime": "other"}, model=model).save(
        tmp_path / "new.json"
    )
    with pytest.raises(
        SpaceEvoError,
        match=f"platform = new has a table of its own, with measured {has}.*set platform.table to a new file",
    ):
        run_stage("transfer", *given)
    assert LatencyTable.load(tmp_path / "new.json").entries == {"block": 1.0}


def test_a_trial_is_small_and_leaves_the_table_alone(compose: Compose, given: list[str], tmp_path: Path) -> None:
    profiled(tmp_path / "known.json")
    config = compose("transfer", *given)
    job = make_job(config)
    assert isinstance(job, TransferJob)
    words = [*shortened_words(job, config, Extent(None, 1))]
    assert {"++platform.table=null", "++recipe.transfer.passes=2", "++recipe.transfer.networks=3"} <= {*words}
    assert job.next_command() == ""  # there are no blocks
