import csv
from pathlib import Path
from random import Random

import pytest

import spaceevo
from spaceevo.errors import EncodingError, TableError
from spaceevo.latency.predictor import BlockLatency, nearest_keys
from spaceevo.latency.roofline import Correction, Roofline, block_work, mparams_of
from spaceevo.latency.table import LatencyTable
from spaceevo.space.encoding import SubnetSpec, parse_substage
from spaceevo.space.operators import sample_subnet
from spaceevo.space.placement import block_key, place, subnet_blocks
from spaceevo.space.spec import BlockSpec
from spaceevo.space.superspace import SpaceMember

ONNXW_SMALLEST = spaceevo.parse_space("onnxw-000000").smallest


@pytest.fixture
def member() -> SpaceMember:
    return spaceevo.parse_space("digits-012-000")


def subnet_keys(member: SpaceMember, spec: SubnetSpec) -> list[str]:
    return [block_key(*placed) for placed in subnet_blocks(member, spec)]


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
        total += predictor.blocks_ms(place(specs, hw))
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
        predictor.blocks_ms(place(member.block_specs(member.smallest)["stage1"], 12))
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


def test_predictions_look_a_block_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    member, rng = spaceevo.parse_space("onnxw-000000-000000"), Random(0)
    specs = [sample_subnet(member, rng) for _ in range(3000)]
    keys = {block_key(*block) for spec in specs[:600] for block in subnet_blocks(member, spec)}
    known = BlockLatency(
        LatencyTable({key: 0.1 + len(key) / 1000 for key in keys}, model=some_model()), interpolate=True
    )
    looked_up: list[str] = []
    block_ms = BlockLatency.block_ms

    def counted(predictor: BlockLatency, spec: BlockSpec, hw: int) -> float | None:
        looked_up.append(block_key(spec, hw))
        return block_ms(predictor, spec, hw)

    monkeypatch.setattr(BlockLatency, "block_ms", counted)
    found = known.predict_many(member, specs)
    assert found.shape == (3000,)
    every = [block_key(*block) for spec in specs for block in subnet_blocks(member, spec)]
    assert set(looked_up) == set(every)
    assert len(looked_up) < len(every) / 5  # a subnet with one new block looks all of its own up
    looked_up.clear()
    assert (known.predict_many(member, specs) == found).all()
    assert not looked_up
    for index in range(0, 3000, 300):
        assert found[index] == pytest.approx(known.blocks_ms(subnet_blocks(member, specs[index])))


def some_model() -> Roofline:
    """Costs for every family of onnxw."""
    space, rng = spaceevo.superspace("onnxw"), Random(0)
    networks = [(m, sample_subnet(m, rng)) for m in (space.member([i] * 6, [0] * 6) for i in range(6))]
    blocks = [block for network in networks for block in subnet_blocks(*network)]
    return Roofline.fit(blocks, [0.01 + block_work(*block)["weights"] for block in blocks])


def test_unknown_blocks_are_interpolated_only_if_asked_for_and_flagged() -> None:
    member = spaceevo.parse_space("onnxw-012345-000000")
    keys, model = subnet_keys(member, member.smallest), some_model()
    table = LatencyTable(dict.fromkeys(keys[2:], 1.0), model=model, correction=Correction(1.5, 0.1))
    with pytest.raises(TableError, match=r"platform\.unknown_blocks=fitted predicts them"):
        BlockLatency(table).predict(member, member.smallest)
    predictor = BlockLatency(table, interpolate=True)
    blocks = subnet_blocks(member, member.smallest)
    alone = [model.block_ms(*block) for block in blocks[:2]] + [1.0] * len(blocks[2:])
    expected = 1.5 * sum(alone) + 0.1 * mparams_of(blocks)
    assert predictor.predict(member, member.smallest) == pytest.approx(expected)
    assert predictor.interpolated == set(keys[:2])
    assert predictor.missing(blocks) == {}
    table.entries |= dict.fromkeys(keys[:2], 3.0)
    measured = 1.5 * (6.0 + len(blocks[2:])) + 0.1 * mparams_of(blocks)
    assert predictor.predict(member, member.smallest) == pytest.approx(measured)
    assert predictor.interpolated == set()


def test_nearest_known_blocks_are_named(member: SpaceMember) -> None:
    known = [
        "ResNetBlock_6_48_40_3_0.5_1_relu",
        "ResNetBlock_6_40_40_3_0.5_1_relu",
        "ResNetBlock_60_8_8_3_0.5_2_relu",
        "ResNetSEBlock_6_40_48_3_0.5_1_relu",
    ]
    assert nearest_keys("ResNetBlock_6_40_48_3_0.5_1_relu", known, limit=2) == [known[1], known[0]]
    table = LatencyTable({"FirstConvBlock_40_3_8_3_None_2_relu": 1.0})
    with pytest.raises(
        TableError, match=r"nearest to the first: FirstConvBlock_40_3_8_3_None_2_relu; .*superspace=digits"
    ):
        BlockLatency(table, "t.json").predict(member, member.smallest)


def test_fixed_stages_alone_missing_names_their_setting() -> None:
    member = spaceevo.parse_space("digits-012-000")
    table = full_table(member)
    table.entries = {k: v for k, v in table.entries.items() if not k.startswith("F")}
    with pytest.raises(TableError, match=r"platform\.fixed_latency_ms=… \(ms\) stands for"):
        BlockLatency(table).predict(member, member.smallest)


def test_a_table_of_another_superspace_is_said() -> None:
    member = spaceevo.parse_space("mobilew-122222-155400")
    table = LatencyTable({key: 1.0 for key in subnet_keys(spaceevo.parse_space("onnxw-000000"), ONNXW_SMALLEST)})
    with pytest.raises(TableError, match=r"onnxw\.json lacks \d+ of \d+ blocks of superspace mobilew: "):
        BlockLatency(table, "onnxw.json").predict(member, member.smallest)


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
                    assert predictor.blocks_ms(place(specs, hw)) == pytest.approx(float(latency_ms), abs=1e-3)
    assert covered > 1000
