"""Sums of blocks, corrected by whole networks where no profile was made."""

import json
import math
from pathlib import Path
from random import Random

import pytest

import spaceevo
from spaceevo.jobs.recording import recorded
from spaceevo.latency.roofline import Correction
from spaceevo.latency.table import LatencyTable
from spaceevo.platforms.measuring import BLOCKS as MEASURED
from spaceevo.platforms.measuring import LOOK, WHOLE, MeasuringPlatform
from spaceevo.runtimes.timing import Stillness
from spaceevo.space.operators import sample_networks
from spaceevo.space.placement import block_key, subnet_blocks
from tests.platforms.conftest import Fake

MEMBER = spaceevo.parse_space("digits-012-000")
BLOCKS = subnet_blocks(MEMBER, MEMBER.largest)


def test_whole_networks_correct_sums_of_blocks_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = Fake(tmp_path / "alone", unknown_blocks="measure").subnet_ms(MEMBER, MEMBER.largest)
    platform = Fake(tmp_path, whole=1.25)
    assert platform.subnet_ms(MEMBER, MEMBER.largest) == pytest.approx(1.25 * alone)
    told = capsys.readouterr().out
    assert "10 random networks of digits are measured whole" in told
    assert "1.25 times the sum of their blocks; corrected, one that was not measured is off by 0.0 %" in told
    networks = sample_networks(MEMBER.superspace, Random(0), 10)
    assert sorted(name for name in platform.timed if " " in name) == sorted(networks)
    again = Fake(tmp_path, whole=9.0)
    assert again.subnet_ms(MEMBER, MEMBER.largest) == pytest.approx(1.25 * alone)
    assert again.timed == []
    assert capsys.readouterr().out == ""
    table = LatencyTable.load(platform.path)
    assert table.correction.scale == pytest.approx(1.25)
    assert table.provenance["correction_networks"] == 10
    assert table.provenance["correction_mape_percent"] == 0.0


@pytest.mark.parametrize(("poor_percent", "lines"), [(-1.0, 1), (15.0, 0)])
def test_a_poor_correction_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    poor_percent: float,
    lines: int,
) -> None:
    monkeypatch.setattr("spaceevo.platforms.measuring.POOR_PERCENT", poor_percent)
    platform = Fake(tmp_path)
    platform.ready(MEMBER.superspace)
    told = "".join(capsys.readouterr().out.split())
    assert told.count(f"thatispoor:remove{platform.path}andmeasureagain") == lines


def test_how_fast_the_core_can_be_is_looked_at_once_and_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[str]()
    monkeypatch.setattr("spaceevo.terminal.tell_work", lambda kind, *_: told.append(kind))
    monkeypatch.setattr(Stillness, "least_ns", math.inf)
    Fake(tmp_path).alone_ms({block_key(*BLOCKS[0]): BLOCKS[0]})  # measured elsewhere
    platform = MeasuringPlatform("ort_cpu", "onnxruntime", "digits", str(tmp_path))
    for block in BLOCKS[:2]:
        platform.alone_ms({block_key(*block): block})
    assert told == [MEASURED, LOOK, MEASURED, MEASURED]


def test_which_blocks_are_measured_first_is_told(tmp_path: Path) -> None:
    superspace = MEMBER.superspace
    told = Fake(tmp_path).measured_first(superspace)
    platform = Fake(tmp_path)
    platform.ready(superspace)
    assert told == {name for name in platform.timed if " " not in name and not name.startswith("empty")} != set()
    assert platform.measured_first(superspace) == Fake(tmp_path).measured_first(superspace) == set()
    assert Fake(tmp_path / "alone", unknown_blocks="measure").measured_first(superspace) == set()


def test_measuring_them_is_told_as_work_of_its_own(tmp_path: Path) -> None:
    with recorded(tmp_path, "block_lut", "") as recorder:
        Fake(tmp_path / "platform").ready(MEMBER.superspace)
        Fake(tmp_path / "platform").ready(MEMBER.superspace)
    assert {kind: one.times for kind, one in recorder.spent.items()} == {WHOLE: 10}


@pytest.mark.parametrize("first", ["rows_ms", "fixed_ms", "fastest"])
def test_every_first_question_is_answered_corrected(tmp_path: Path, first: str) -> None:
    uncorrected = Fake(tmp_path / "alone", unknown_blocks="measure")
    platform = Fake(tmp_path, whole=1.25)
    if first == "fixed_ms":
        expected = {hw: pytest.approx(1.25 * ms) for hw, ms in uncorrected.fixed_ms(MEMBER.superspace).items()}
        assert platform.fixed_ms(MEMBER.superspace) == expected
    elif first == "fastest":
        platform.fastest(MEMBER)
        assert platform.predictor.table.is_corrected
    else:
        platform.ready(MEMBER.superspace)
        assert platform.rows_ms([BLOCKS]) == pytest.approx([1.25 * ms for ms in uncorrected.rows_ms([BLOCKS])])


def test_what_another_job_corrected_by_meanwhile_counts(tmp_path: Path) -> None:
    first, second = Fake(tmp_path, whole=1.25), Fake(tmp_path, whole=1.5)
    before = second.table_state()
    expected = first.subnet_ms(MEMBER, MEMBER.largest)
    assert second.subnet_ms(MEMBER, MEMBER.largest) == expected
    assert not [name for name in second.timed if " " in name]
    assert second.table_state() == first.table_state()
    assert second.table_state(0) != before  # the correction counts in fingerprints


def test_a_correction_is_not_measured_anew_where_networks_need_none(tmp_path: Path) -> None:
    Fake(tmp_path).ready(MEMBER.superspace)
    LatencyTable(provenance={"correction_networks": 10}).save(tmp_path / "t.json")
    assert LatencyTable.load(tmp_path / "t.json").is_corrected
    again = Fake(tmp_path)
    again.ready(MEMBER.superspace)
    assert again.timed == []


def test_nothing_is_measured_where_it_is_not_wished_or_the_table_is_not_of_here(tmp_path: Path) -> None:
    measuring = Fake(tmp_path, unknown_blocks="measure")
    measuring.ready(MEMBER.superspace)
    measuring.ensure(BLOCKS)
    other = Fake(tmp_path, machine="B", table=str(measuring.path))
    other.ready(MEMBER.superspace)
    assert other.timed == []
    assert not any(" " in name for name in measuring.timed)
    assert not LatencyTable.load(measuring.path).is_corrected
    LatencyTable({block_key(*block): 0.5 for block in BLOCKS}).save(tmp_path / "anybody's.json")
    anybodys = Fake(tmp_path, table=str(tmp_path / "anybody's.json"))
    assert anybodys.subnet_ms(MEMBER, MEMBER.largest) == pytest.approx(0.5 * len(BLOCKS))
    assert anybodys.timed == []


def test_a_correction_without_a_model_is_kept(tmp_path: Path) -> None:
    table = LatencyTable({"a": 1.0}, {"machine": "m"}, correction=Correction(1.1, 0.06))
    table.save(tmp_path / "t.json")
    assert LatencyTable.load(tmp_path / "t.json") == table
    LatencyTable({"a": 1.0}).save(tmp_path / "plain.json")
    text = (tmp_path / "plain.json").read_text()
    assert "correction" not in text
    assert json.loads("{" + text.partition("{")[2])["blocks"] == {"a": 1.0}
