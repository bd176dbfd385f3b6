import json
import logging
from pathlib import Path
from random import Random
from typing import Any

import pytest

import spaceevo
from spaceevo.errors import ConfigError, TableError
from spaceevo.jobs.recording import recorded
from spaceevo.latency.roofline import Correction, Roofline, block_work, mparams_of
from spaceevo.latency.table import LatencyTable
from spaceevo.platforms.base import Platform
from spaceevo.runtimes.random_program import random_program
from spaceevo.space.operators import sample_subnet
from spaceevo.space.placement import block_key, fixed_blocks, subnet_blocks
from tests.platforms.conftest import Fake

MEMBER = spaceevo.parse_space("digits-012-000")
BLOCKS = subnet_blocks(MEMBER, MEMBER.smallest)


def model_of(blocks: object) -> Roofline:
    return Roofline.fit(BLOCKS, [1 + block_work(*block)["weights"] for block in BLOCKS])


def test_only_unknown_blocks_are_measured_once_and_less_what_running_takes(tmp_path: Path) -> None:
    platform = Fake(tmp_path, unknown_blocks="measure")
    first = platform.subnet_ms(MEMBER, MEMBER.smallest)
    assert first == platform.blocks_ms(BLOCKS)
    assert sorted(platform.timed) == sorted(["empty_1_1_1"] * 2 + [*{block_key(*block) for block in BLOCKS}])
    entries = platform.predictor.table.entries
    assert entries[block_key(*BLOCKS[0])] == 2.0  # the stem: one convolution, and running the network
    assert entries[block_key(*BLOCKS[1])] == 2.0  # two convolutions
    assert first == platform.measured_ms({"whole": random_program(BLOCKS)})["whole"]
    again = Fake(tmp_path, unknown_blocks="measure")
    assert again.subnets_ms(MEMBER, [MEMBER.smallest] * 2).tolist() == [first, first]
    assert again.timed == []
    again.subnet_ms(MEMBER, MEMBER.largest)
    assert not {block_key(*block) for block in BLOCKS} & set(again.timed)


def test_fixed_stages_are_measured_or_set(tmp_path: Path) -> None:
    space = MEMBER.superspace
    found = Fake(tmp_path).fixed_ms(space)
    assert found.keys() == {24, 32}
    assert found[24] == Fake(tmp_path).blocks_ms(fixed_blocks(space, 24))
    assert Fake(tmp_path / "new", fixed_latency_ms=0.5).fixed_ms(space) == {24: 0.5, 32: 0.5}
    assert Fake(tmp_path / "new", fixed_latency_ms={24: 0.5, 32: 0.7}).fixed_ms(space) == {24: 0.5, 32: 0.7}


def test_blocks_that_a_latency_stands_for_are_not_measured_with_the_others(tmp_path: Path) -> None:
    platform = Fake(tmp_path, fixed_latency_ms=0.5, unknown_blocks="measure")
    searched = [stage.name for stage in MEMBER.superspace.searched]
    specs = MEMBER.block_specs(MEMBER.smallest)
    needed = {block_key(*block) for block in platform.blocks_of(MEMBER, [MEMBER.smallest])}
    assert platform.unmeasured(BLOCKS) == {block_key(*block) for block in BLOCKS} > needed
    assert len(needed) == sum(len(specs[name]) for name in searched)
    found_ms = platform.subnet_ms(MEMBER, MEMBER.smallest)
    assert {*platform.timed} - {"empty_1_1_1"} == needed
    assert found_ms == 0.5 + sum(platform.predictor.table.entries[key] for key in needed)


def test_the_fastest_subnet_is_found_where_few_blocks_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = Fake(tmp_path, unknown_blocks="measure")
    monkeypatch.setattr("spaceevo.platforms.measuring.FEW_BLOCKS", 10)
    assert platform.fastest(MEMBER) is None and platform.timed == []
    rng = Random(0)
    platform.subnets_ms(MEMBER, [sample_subnet(MEMBER, rng) for _ in range(400)])
    fastest, known = platform.fastest(MEMBER), {*platform.timed}
    assert fastest is not None
    many_ms = platform.subnets_ms(MEMBER, [sample_subnet(MEMBER, rng) for _ in range(400)])
    assert platform.subnet_ms(MEMBER, fastest) <= many_ms.min()
    assert {*platform.timed} == known  # all blocks of the space were


@pytest.mark.parametrize(("restless", "lines"), [(1, 0), (2, 1)])
def test_blocks_that_had_no_still_moment_are_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, restless: int, lines: int
) -> None:
    platform = Fake(tmp_path, unknown_blocks="measure")
    first = [*platform.blocks_of(MEMBER, [MEMBER.smallest, MEMBER.largest])]
    keys = sorted({block_key(*block) for block in first})
    assert 10 < len(keys) < 20  # of which one is less than a tenth, and two are more
    platform.bench.restless |= {*keys[:restless]}
    platform.ensure(first)
    told = [line for line in caplog.messages if "still moment" in line]
    assert len(told) == lines
    if told:
        assert (
            f"platform fake: 2 of {len(keys)} blocks or networks were never" in told[0]
            and str(platform.path) in told[0]
        )
        others = [*platform.blocks_of(MEMBER, [sample_subnet(MEMBER, Random(0))])]
        platform.bench.restless |= platform.unmeasured(others)
        platform.ensure(others)
        assert len([line for line in caplog.messages if "still moment" in line]) == 1


def test_a_fitted_model_spares_measuring_and_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = Fake(tmp_path).path
    table = LatencyTable(model=model_of(BLOCKS), correction=Correction(2.0, 0.5))
    table.save(path)
    platform = Fake(tmp_path)
    assert table.model is not None
    expected = 2.0 * sum(table.model.block_ms(*block) for block in BLOCKS) + 0.5 * mparams_of(BLOCKS)
    with caplog.at_level(logging.WARNING):
        assert platform.subnet_ms(MEMBER, MEMBER.smallest) == pytest.approx(expected)
        platform.subnet_ms(MEMBER, MEMBER.smallest)
    assert platform.timed == []
    assert caplog.text.count("are interpolated by its fitted model") == 1
    measuring = Fake(tmp_path, unknown_blocks="measure")
    measured = measuring.subnet_ms(MEMBER, MEMBER.smallest)
    assert measuring.timed
    alone = sum(measuring.predictor.table.entries[block_key(*block)] for block in BLOCKS)
    assert measured == pytest.approx(2.0 * alone + 0.5 * mparams_of(BLOCKS))


def test_another_machines_table_warns_with_both_names_and_is_not_measured_into(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "table.json"
    Fake(tmp_path, table=str(table)).subnet_ms(MEMBER, MEMBER.smallest)

    with caplog.at_level(logging.WARNING):
        platform = Fake(tmp_path, machine="B", table=str(table))
    assert "was measured on A, this machine is B" in caplog.text
    platform.subnet_ms(MEMBER, MEMBER.smallest)
    with pytest.raises(TableError, match="table.json lacks"):
        platform.subnet_ms(MEMBER, MEMBER.largest)
    assert platform.timed == []


def test_a_table_of_something_else_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = tmp_path / "table.json"
    Fake(tmp_path, table=str(table)).subnet_ms(MEMBER, MEMBER.smallest)
    with caplog.at_level(logging.WARNING):
        Fake(tmp_path, table=str(table))
        assert not caplog.text
        Fake(tmp_path, superspace="onnxw", table=str(table))
        assert "table.json was made for superspace digits, not onnxw" in caplog.text
        other = Fake(tmp_path, "other", table=str(table))
        Platform("vnni", str(table))
    assert "table.json is of platform fake, not other" in caplog.text
    assert "table.json is of platform fake, not vnni" in caplog.text
    with pytest.raises(TableError, match=r"table\.json lacks"):
        other.subnet_ms(MEMBER, MEMBER.largest)


def changed(platform: Platform, entries: dict[str, float], model: Roofline | None = None, scale: float = 1.0) -> Fake:
    """A platform whose table has been replaced."""
    LatencyTable(entries, platform.predictor.table.provenance, model=model, correction=Correction(scale)).save(
        platform.path
    )
    return Fake(platform.path.parent)


def test_what_is_measured_later_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    first = Fake(tmp_path, unknown_blocks="measure")
    first.subnet_ms(MEMBER, MEMBER.smallest)
    before = first.table_state()
    assert before["entries"] == len({block_key(*block) for block in BLOCKS})
    assert Fake(tmp_path).table_state() == before
    Fake(tmp_path, unknown_blocks="measure").subnet_ms(MEMBER, MEMBER.largest)
    later = Fake(tmp_path)
    assert later.table_state() != before
    assert later.table_state(before["entries"]) == before
    assert json.loads(json.dumps(before)) == before


def test_what_other_jobs_measured_is_appended_too(tmp_path: Path) -> None:
    first, second = Fake(tmp_path), Fake(tmp_path)
    first.ensure(reversed(BLOCKS[2:4]))
    before = first.table_state()
    second.ensure(BLOCKS[:2])
    first.ensure(BLOCKS[:5])
    assert first.table_state(2) == second.table_state(2) == Fake(tmp_path).table_state(2) == before


def test_who_watches_knows_that_no_block_was_measured_before(tmp_path: Path) -> None:
    with recorded(tmp_path, "block_lut", "it") as recorder:
        Fake(tmp_path).ensure(BLOCKS[:3])
    assert [(task.began_at, task.done, task.total) for task in recorder.tasks.values()] == [(0, 3, 3)]


def test_a_table_of_other_latencies_has_another_state(tmp_path: Path) -> None:
    platform = Fake(tmp_path)
    platform.subnet_ms(MEMBER, MEMBER.smallest)
    entries, count = platform.predictor.table.entries, len(platform.predictor.table.entries)
    states = [platform.table_state(count)]
    states.append(changed(platform, {key: 3 * ms for key, ms in entries.items()}).table_state(count))
    states.append(changed(platform, {**entries, block_key(*BLOCKS[-1]): 9.0}).table_state(count))
    states.append(changed(platform, entries, model=model_of(BLOCKS)).table_state(count))
    states.append(changed(platform, entries, model=model_of(BLOCKS), scale=2.0).table_state(count))
    states.append(changed(platform, dict(list(entries.items())[:-1])).table_state(count))
    assert len({state["digest"] for state in states}) == len(states)
    assert changed(platform, entries).table_state(count) == states[0]


@pytest.mark.parametrize(("setting", "usual", "other"), [("packed_channels", 1, 64), ("weight_bits", 8, 7)])
def test_tables_of_other_files_are_apart_from_those_of_usual_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, setting: str, usual: int, other: int
) -> None:
    files: list[dict[str, Any]] = [{setting: usual}, {setting: other}]
    plain, apart = (Fake(tmp_path, **each) for each in files)
    assert plain.path != apart.path
    assert plain.path == Fake(tmp_path).path
    plain.ensure(BLOCKS[:1])
    with caplog.at_level(logging.WARNING):
        mixed = Fake(tmp_path, **files[1], table=str(plain.path))
    assert f"was measured on files with {setting}={usual}, not {other}" in caplog.text
    with pytest.raises(TableError, match="lacks"):
        mixed.ensure(BLOCKS)


def test_weights_are_as_wide_as_asked(tmp_path: Path) -> None:
    assert [Fake(tmp_path, weight_bits=bits).weight_limit for bits in (7, 8)] == [63, 127]


def test_rows_of_blocks_are_measured_together_and_interpolation_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    platform = Fake(tmp_path)
    rows = [BLOCKS[:2], BLOCKS[1:4], BLOCKS[:1]]
    found = platform.rows_ms(rows)
    assert found == [platform.blocks_ms(row) for row in rows]
    assert len(platform.timed) == 2 + 4
    LatencyTable(model=model_of(BLOCKS)).save(tmp_path / "fitted.json")
    with caplog.at_level(logging.WARNING):
        Fake(tmp_path, table=str(tmp_path / "fitted.json")).rows_ms(rows)
    assert caplog.text.count("are interpolated by its fitted model") == 1


def test_a_table_alone_predicts_and_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"platform vnni has no latency table at .*fit_latency platform=vnni source="):
        Platform("vnni", str(tmp_path / "absent.json"))
    entries = {block_key(*block): 0.5 for block in BLOCKS}
    LatencyTable(entries, model=model_of(BLOCKS)).save(tmp_path / "t.json")
    platform = Platform("vnni", str(tmp_path / "t.json"))
    assert platform.subnet_ms(MEMBER, MEMBER.smallest) == pytest.approx(0.5 * len(BLOCKS))
    with pytest.raises(TableError, match="lacks .* of superspace digits"):
        platform.subnet_ms(MEMBER, MEMBER.largest)
    with pytest.raises(TableError, match=r"platform\.fixed_latency_ms"):
        platform.fixed_ms(MEMBER.superspace)
    guess: Any = "guess"
    with pytest.raises(ConfigError, match=r"platform\.unknown_blocks = 'guess'; allowed on vnni: error, fitted"):
        Platform("vnni", str(tmp_path / "t.json"), unknown_blocks=guess)
    fitted = Platform("vnni", str(tmp_path / "t.json"), unknown_blocks="fitted")
    assert fitted.subnet_ms(MEMBER, MEMBER.largest) > 0
    assert fitted.predictor.interpolated


def test_programs_and_models_are_measured(tmp_path: Path) -> None:
    program = random_program(BLOCKS)
    assert Fake(tmp_path).measured_ms({"p": program, "m": bytes(4)}) == {"p": 1.0 + len(program.ops), "m": 5.0}


def test_what_another_job_measured_in_the_meantime_stays_and_counts(tmp_path: Path) -> None:
    first, second = Fake(tmp_path), Fake(tmp_path)
    first.ensure(BLOCKS[:2])
    shared, other = block_key(*BLOCKS[1]), block_key(*BLOCKS[2])
    first.predictor.table.entries[shared] = 77.0
    first.predictor.table.save(first.path)
    second.ensure(BLOCKS[1:3])
    assert second.predictor.table.entries[shared] == 77.0
    assert set(Fake(tmp_path).predictor.table.entries) == {block_key(*BLOCKS[0]), shared, other}
