import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import spaceevo
from spaceevo.errors import ConfigError, TableError
from spaceevo.latency.roofline import Correction, Roofline, block_work, mparams_of
from spaceevo.latency.table import LatencyTable
from spaceevo.nn.supernet import Network
from spaceevo.platforms.base import Platform
from spaceevo.platforms.measuring import MeasuringPlatform
from spaceevo.quant.program import Program
from spaceevo.runtimes.random_program import random_program
from spaceevo.runtimes.timing import Model, Timing
from spaceevo.space.placement import block_key, fixed_blocks, subnet_blocks

MEMBER = spaceevo.parse_space("digits-012-000")
BLOCKS = subnet_blocks(MEMBER, MEMBER.smallest)


class Fake(MeasuringPlatform):
    """Takes a millisecond for every operation of a program, and one for running it."""

    suffix = ".fake"
    machine_now = "A"
    timed: list[str]

    def describe(self, name: str) -> dict[str, str]:
        self.timed = []
        return {"platform": name, "machine": self.machine_now, "date": "today"}

    def compile(self, program: Program) -> bytes:
        return bytes(len(program.ops))

    def compile_float(self, network: Network, shape: tuple[int, int, int]) -> bytes:
        return bytes(4 * len(list(network.modules())))

    def time_models(
        self, models: Mapping[str, Model], repeats: int, on_progress: Callable[[int, int], None] | None = None
    ) -> dict[str, Timing]:
        self.timed += models
        return {name: Timing(1.0 + len(bytes(model)), 1.0) for name, model in models.items()}  # type: ignore[arg-type]


def fake(cache: Path, **settings: object) -> Fake:
    return Fake("fake", "digits", str(cache), **settings)  # type: ignore[arg-type]


def model_of(blocks: object) -> Roofline:
    return Roofline.fit(BLOCKS, [1 + block_work(*block)["weights"] for block in BLOCKS])


def test_only_unknown_blocks_are_measured_once_and_less_what_running_takes(tmp_path: Path) -> None:
    platform = fake(tmp_path)
    first = platform.subnet_ms(MEMBER, MEMBER.smallest)
    assert first == platform.blocks_ms(BLOCKS)
    assert sorted(platform.timed) == sorted(["empty", *{block_key(*block) for block in BLOCKS}])
    entries = platform.predictor.table.entries
    assert entries[block_key(*BLOCKS[0])] == 2.0  # the stem: one convolution, and running the network
    assert entries[block_key(*BLOCKS[1])] == 2.0  # two convolutions
    assert first == platform.measured_ms({"whole": random_program(BLOCKS)})["whole"]
    again = fake(tmp_path)
    assert again.subnets_ms(MEMBER, [MEMBER.smallest] * 2).tolist() == [first, first]
    assert again.timed == []
    again.subnet_ms(MEMBER, MEMBER.largest)
    assert not {block_key(*block) for block in BLOCKS} & set(again.timed)


def test_fixed_stages_are_measured_or_set(tmp_path: Path) -> None:
    space = MEMBER.superspace
    found = fake(tmp_path).fixed_ms(space)
    assert found.keys() == {24, 32}
    assert found[24] == fake(tmp_path).blocks_ms(fixed_blocks(space, 24))
    assert fake(tmp_path / "new", fixed_latency_ms=0.5).fixed_ms(space) == {24: 0.5, 32: 0.5}
    assert fake(tmp_path / "new", fixed_latency_ms={24: 0.5, 32: 0.7}).fixed_ms(space) == {24: 0.5, 32: 0.7}


def test_a_fitted_model_spares_measuring_and_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = fake(tmp_path).path
    table = LatencyTable(model=model_of(BLOCKS), correction=Correction(2.0, 0.5))
    table.save(path)
    platform = fake(tmp_path)
    assert table.model is not None
    expected = 2.0 * sum(table.model.block_ms(*block) for block in BLOCKS) + 0.5 * mparams_of(BLOCKS)
    with caplog.at_level(logging.WARNING):
        assert platform.subnet_ms(MEMBER, MEMBER.smallest) == pytest.approx(expected)
        platform.subnet_ms(MEMBER, MEMBER.smallest)
    assert platform.timed == []
    assert caplog.text.count("are interpolated by its fitted model") == 1
    measuring = fake(tmp_path, unknown_blocks="measure")
    measured = measuring.subnet_ms(MEMBER, MEMBER.smallest)
    assert measuring.timed
    alone = sum(measuring.predictor.table.entries[block_key(*block)] for block in BLOCKS)
    assert measured == pytest.approx(2.0 * alone + 0.5 * mparams_of(BLOCKS))


def test_another_machines_table_warns_with_both_names_and_is_not_measured_into(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "table.json"
    fake(tmp_path, table=str(table)).subnet_ms(MEMBER, MEMBER.smallest)

    class Other(Fake):
        machine_now = "B"

    with caplog.at_level(logging.WARNING):
        platform = Other("fake", "digits", str(tmp_path), table=str(table))
    assert "was measured on A, this machine is B" in caplog.text
    platform.subnet_ms(MEMBER, MEMBER.smallest)
    with pytest.raises(TableError, match="table.json lacks"):
        platform.subnet_ms(MEMBER, MEMBER.largest)
    assert platform.timed == []


def test_a_table_of_something_else_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = tmp_path / "table.json"
    fake(tmp_path, table=str(table)).subnet_ms(MEMBER, MEMBER.smallest)
    with caplog.at_level(logging.WARNING):
        fake(tmp_path, table=str(table))
        assert not caplog.text
        Fake("fake", "onnxw", str(tmp_path), table=str(table))
        assert "table.json was made for superspace digits, not onnxw" in caplog.text
        other = Fake("other", "digits", str(tmp_path), table=str(table))
        Platform("vnni", str(table))
    assert "table.json is of platform fake, not other" in caplog.text
    assert "table.json is of platform fake, not vnni" in caplog.text
    with pytest.raises(TableError, match=r"table\.json lacks"):
        other.subnet_ms(MEMBER, MEMBER.largest)


def test_predictions_change_with_the_stamp_and_not_with_what_is_measured_on_demand(tmp_path: Path) -> None:
    platform = fake(tmp_path)
    before = platform.stamp
    platform.subnet_ms(MEMBER, MEMBER.smallest)
    assert platform.stamp == before == fake(tmp_path).stamp
    LatencyTable(platform.predictor.table.entries, model=model_of(BLOCKS)).save(platform.path)
    assert fake(tmp_path).stamp != before
    table = Platform("fake", str(platform.path))
    changed = {**platform.predictor.table.entries, block_key(*BLOCKS[0]): 9.0}
    LatencyTable(changed, model=model_of(BLOCKS)).save(platform.path)
    assert Platform("fake", str(platform.path)).stamp != table.stamp


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
    with pytest.raises(ConfigError, match=r"platform\.unknown_blocks = 'guess'; allowed on vnni: error, fitted"):
        Platform("vnni", str(tmp_path / "t.json"), unknown_blocks="guess")
    fitted = Platform("vnni", str(tmp_path / "t.json"), unknown_blocks="fitted")
    assert fitted.subnet_ms(MEMBER, MEMBER.largest) > 0
    assert fitted.predictor.interpolated


def test_programs_and_models_are_measured(tmp_path: Path) -> None:
    from spaceevo.runtimes.random_program import random_program

    program = random_program(BLOCKS)
    assert fake(tmp_path).measured_ms({"p": program, "m": bytes(4)}) == {"p": 1.0 + len(program.ops), "m": 5.0}


def test_what_another_job_measured_in_the_meantime_stays_and_counts(tmp_path: Path) -> None:
    first, second = fake(tmp_path), fake(tmp_path)
    first.ensure(BLOCKS[:2])
    shared, other = block_key(*BLOCKS[1]), block_key(*BLOCKS[2])
    first.predictor.table.entries[shared] = 77.0
    first.predictor.table.save(first.path)
    second.ensure(BLOCKS[1:3])
    assert second.predictor.table.entries[shared] == 77.0
    assert set(fake(tmp_path).predictor.table.entries) == {block_key(*BLOCKS[0]), shared, other}
