import csv
import time
from pathlib import Path
from random import Random

import pytest

import spaceevo
from spaceevo.errors import EncodingError, TableError
from spaceevo.latency.blocks import place, subnet_blocks
from spaceevo.latency.predictor import BlockLatency, subnet_keys
from spaceevo.latency.table import LatencyTable
from spaceevo.space.encoding import parse_substage
from spaceevo.space.operators import sample_subnet
from spaceevo.space.superspace import SpaceMember


@pytest.fixture
def member() -> SpaceMember:
    return spaceevo.parse_space("digits-012-000")


def full_table(member: SpaceMember) -> LatencyTable:
    """Distinct latencies for the blocks of the smallest and the largest subnet."""
    keys = {key for spec in (member.smallest, member.largest) for key in subnet_keys(member, spec)}
    return LatencyTable({key: 1 + index / 100 for index, key in enumerate(sorted(keys))})


def test_subnet_is_the_sum_of_its_blocks(member: SpaceMember) -> None:
    table = full_table(member)
    for spec in (member.smallest, member.largest):
        expected = sum(table.entries[key] for key in subnet_keys(member, spec))
        assert BlockLatency(table).predict(member, spec) == pytest.approx(expected)


def test_stages_add_up_to_the_subnet(member: SpaceMember) -> None:
    predictor, hw, total = BlockLatency(full_table(member)), member.largest.resolution, 0.0
    for specs in member.block_specs(member.largest).values():
        total += predictor.stage_ms(specs, hw)
        hw = place([*specs, specs[-1]], hw)[-1][1]
    assert total == pytest.approx(predictor.predict(member, member.largest))


def test_missing_blocks_are_named(member: SpaceMember) -> None:
    predictor = BlockLatency(LatencyTable(), "platform.json")
    keys = subnet_keys(member, member.smallest)
    with pytest.raises(TableError) as error:
        predictor.predict(member, member.smallest)
    text = str(error.value)
    assert f"platform.json lacks {len(set(keys))} of {len(set(keys))} blocks of superspace digits" in text
    assert all(key in text for key in keys[:3])
    assert keys[3] not in text
    assert "platform=ort_cpu" in text
    with pytest.raises(TableError, match="lacks"):
        predictor.stage_ms(member.block_specs(member.smallest)["stage1"], 12)
    missing = predictor.missing(subnet_blocks(member, member.smallest))
    assert list(missing) == list(dict.fromkeys(keys))


def test_another_spaces_subnet_is_refused(member: SpaceMember) -> None:
    with pytest.raises(EncodingError):
        BlockLatency(full_table(member)).predict(spaceevo.parse_space("digits-012-111"), member.smallest)


def test_fixed_latency_stands_for_stages_that_are_not_searched(member: SpaceMember) -> None:
    table, spec = full_table(member), member.smallest
    whole = BlockLatency(table, fixed_latency_ms=50.0).predict(member, spec)
    assert whole == BlockLatency(table).predict(member, spec)

    searched = {key for key in table.entries if not key.startswith(("FirstConv", "Final", "Feature", "Logits"))}
    dual = [key for key in searched if key.startswith("MobileNetV1")]
    table.entries = {key: table.entries[key] for key in searched - set(dual)}
    stages = sum(ms for key, ms in table.entries.items() if key in subnet_keys(member, spec))
    assert BlockLatency(table, fixed_latency_ms=50.0).predict(member, spec) == pytest.approx(50 + stages)
    assert BlockLatency(table, fixed_latency_ms={24: 20.0}).predict(member, spec) == pytest.approx(20 + stages)
    with pytest.raises(TableError, match=r"fixed_latency_ms has no entry for resolution 32; it has 24"):
        BlockLatency(table, fixed_latency_ms={24: 20.0}).predict(member, member.largest)
    table.entries.clear()
    with pytest.raises(TableError, match="MobileNetV2Res"):
        BlockLatency(table, fixed_latency_ms=50.0).predict(member, spec)


def test_many_predictions_are_quick() -> None:
    member, rng = spaceevo.parse_space("onnxw-000000-000000"), Random(0)
    specs = [sample_subnet(member, rng) for _ in range(1000)]
    predictor = BlockLatency(LatencyTable({key: 0.1 for spec in specs for key in subnet_keys(member, spec)}))
    started = time.process_time()
    for spec in specs:
        predictor.predict(member, spec)
    assert time.process_time() - started < 0.5


def test_published_table_explains_published_rows(reference: Path) -> None:
    predictor = BlockLatency.load(reference / "latency" / "vnni_block_latency.json")
    space, covered = spaceevo.superspace("onnxw"), 0
    for file in sorted((reference / "block_lut" / "onnxw").glob("*.csv")):
        stage, block, _ = file.stem.split("_")
        with file.open(encoding="utf-8") as rows:
            for text, shape, *_, latency_ms in list(csv.reader(rows))[::40]:
                _, cin, hw, _ = map(int, shape.split("x"))
                specs = space.stage_space(stage, int(block)).specs(parse_substage(text), cin)
                if not predictor.missing(place(specs, hw)):
                    covered += 1
                    assert predictor.stage_ms(specs, hw) == pytest.approx(float(latency_ms), abs=1e-3)
    assert covered > 1000
