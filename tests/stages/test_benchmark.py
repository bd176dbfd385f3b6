"""Job benchmark: what is measured, from which files, and when it is measured again."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from spaceevo.artifacts import Front, FrontSubnet, read_sealed_json, write_bytes
from spaceevo.errors import CheckpointError, ConfigError, ExportError
from spaceevo.latency.table import LatencyTable
from spaceevo.runtimes.random_program import random_program
from spaceevo.runtimes.registry import RUNTIMES, runtime_for
from spaceevo.space.description import parse_space
from spaceevo.space.placement import block_key, subnet_blocks
from tests.platforms.conftest import Desk
from tests.stages.conftest import Compose, MadeAnew, RunStage, work_of

MEMBER = parse_space("digits-012-000")
BLOCKS = {spec: subnet_blocks(MEMBER, spec) for spec in (MEMBER.largest, MEMBER.smallest)}
LISTED = ("superspace=digits", f"space={MEMBER}", "subnet=[max,min]", "recipe.benchmark.repeats=2")
FAKE = ("trust=true", "platform._target_=tests.platforms.conftest.Fake", "~platform.runtime", "platform.name=fake")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of all blocks, half a millisecond each."""
    entries = {block_key(*block): 0.5 for blocks in BLOCKS.values() for block in blocks}
    LatencyTable(entries).save(tmp_path / "table.json")
    return tmp_path / "table.json"


def export(tmp_path: Path, space: str, quant: str = "deploy") -> None:
    """Leave an INT8 file of the smallest subnet, said to be of this space, where an export would."""
    texts = {"space": space, "subnet": str(MEMBER.smallest), "quant": quant}
    file = runtime_for("onnx").write(random_program(BLOCKS[MEMBER.smallest]), texts)
    write_bytes(tmp_path / "runs/export/subnet_int8.onnx", file)


@pytest.mark.skipif(not find_spec("ai_edge_litert"), reason="needs the extra tflite")
def test_int8_and_fp32_are_measured(run_stage: RunStage, table: Path) -> None:
    found = run_stage("benchmark", *LISTED, "platform=tflite_cpu", f"platform.table={table}")
    largest, smallest = found.figures["subnets"]
    assert largest["predicted_ms"] == 0.5 * len(BLOCKS[MEMBER.largest])
    for precision in ("int8_ms", "fp32_ms"):
        assert 0 < smallest[precision] < largest[precision] < 100
    assert found.figures["predicted_mape_percent"] > 0
    assert work_of(table.parent / "runs" / "benchmark") == {"subnets written": (2, 2), "files measured": (4, 4)}


def test_a_table_measures_the_exported_subnet_alone(
    run_stage: RunStage, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (*LISTED, "platform=vnni", f"platform.table={table}")
    export(tmp_path, str(MEMBER))
    found = run_stage("benchmark", *settings)
    largest, smallest = found.figures["subnets"]
    assert smallest["int8_ms"] > 0
    assert [largest["int8_ms"], largest["fp32_ms"], smallest["fp32_ms"]] == [None] * 3
    assert "predicted_mape_percent" not in found.figures
    assert "error %" not in capsys.readouterr().out
    export(tmp_path, "digits-012-110")
    assert [row["int8_ms"] for row in run_stage("benchmark", *settings).figures["subnets"]] == [None, None]


def test_without_latencies_the_exported_files_are_measured_all_the_same(run_stage: RunStage, tmp_path: Path) -> None:
    export(tmp_path, str(MEMBER))
    largest, smallest = run_stage("benchmark", *LISTED, "platform=none").figures["subnets"]
    assert smallest["int8_ms"] > 0
    assert (largest["predicted_ms"], smallest["predicted_ms"]) == (None, None)


def test_faults_are_named(run_stage: RunStage, table: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.benchmark\.repeats = 0; allowed: 1 or more"):
        run_stage("benchmark", *LISTED, "recipe.benchmark.repeats=0")
    with pytest.raises(ConfigError, match=r"subnet = \[\]; allowed"):
        run_stage("benchmark", *LISTED, "subnet=[]", "platform=vnni", f"platform.table={table}")


def test_an_fp32_file_in_the_place_of_an_int8_one_is_told(run_stage: RunStage, table: Path, tmp_path: Path) -> None:
    export(tmp_path, str(MEMBER), "off")
    with pytest.raises(ExportError, match=r"subnet_int8\.onnx holds no int8 network; make it again with: .*=export"):
        run_stage("benchmark", *LISTED, "platform=vnni", f"platform.table={table}")
    write_bytes(tmp_path / "runs/export/subnet_int8.onnx", b"\xff" * 99)
    with pytest.raises(ExportError, match=r"subnet_int8\.onnx: this is not a readable onnx file"):
        run_stage("benchmark", *LISTED, "platform=vnni", f"platform.table={table}")


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("space", "digits-000-000", f"is of space digits-000-000, not of {MEMBER}; make it again with"),
        ("top1", 999.0, "front.0.top1: Input should be less than or equal to 100; make it again with"),
        ("latency_ms", float("nan"), "front.0.latency_ms: Input should be a finite number; make it again with"),
    ],
)
def test_a_front_that_was_edited_is_told(
    run_stage: RunStage, table: Path, tmp_path: Path, field: str, value: object, told: str
) -> None:
    write_front(tmp_path)
    path = tmp_path / f"runs/checkpoints/search_subnet/{MEMBER}/front.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    (content if field == "space" else content["front"][0])[field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=told):
        run_stage("benchmark", *LISTED[:2], "platform=vnni", f"platform.table={table}")


def write_front(tmp_path: Path) -> None:
    """Leave a front of both subnets, the largest chosen, as a search would."""
    largest, smallest = map(str, BLOCKS)
    chosen = {"pixel4": {"9": largest}, "vnni": {"7": smallest, "12": largest, "15": largest}}
    rows = tuple(FrontSubnet("vnni", text, "", 1.0, None, 50.0, 50.0, 1.0, 1.0) for text in (smallest, largest))
    front = Front(str(MEMBER), largest, rows, (7.0,), {"vnni": (7.0, 12.0, 15.0)}, chosen)
    front.write(tmp_path / f"runs/checkpoints/search_subnet/{MEMBER}/front.json")


@pytest.mark.parametrize(
    ("where", "word", "asked_ms"),
    [
        ("platform", "platform=vnni", [12.0, 7.0]),
        ("platforms.pixel4", "+platform@platforms.pixel4=vnni", [9.0, None]),  # by the name it is listed under
    ],
)
def test_limits_that_were_asked_for_stand_beside_their_subnets(
    run_stage: RunStage, table: Path, tmp_path: Path, where: str, word: str, asked_ms: list[float | None]
) -> None:
    write_front(tmp_path)
    found = run_stage("benchmark", *LISTED[:2], word, f"{where}.table={table}")
    asked = [(row["subnet"], row["asked_ms"]) for row in found.figures["subnets"]]
    assert asked == [*zip(map(str, BLOCKS), asked_ms, strict=True)]


def test_a_result_lasts_until_something_changes(
    run_stage: RunStage, compose: Compose, made_anew: MadeAnew, table: Path, tmp_path: Path
) -> None:
    write_front(tmp_path)
    given = (*LISTED[:2], "platform=vnni", f"platform.table={table}", "recipe.benchmark.repeats=2")
    run_stage("benchmark", *given)
    assert not made_anew(compose("benchmark", *given))
    assert made_anew(compose("benchmark", *given, "recipe.benchmark.repeats=1"))
    assert made_anew(compose("benchmark", *given))
    export(tmp_path, "digits-012-110")
    assert made_anew(compose("benchmark", *given))
    known = LatencyTable.load(table)
    known.entries[next(iter(known.entries))] = 0.75
    known.save(table)
    assert made_anew(compose("benchmark", *given))
    front = tmp_path / f"runs/checkpoints/search_subnet/{MEMBER}/front.json"
    front.write_text(json.dumps(read_sealed_json(front)).replace("12.0", "13.0"))
    assert made_anew(compose("benchmark", *given))
    assert not made_anew(compose("benchmark", *given))


def test_blocks_measured_since_leave_a_result_as_it_is(
    run_stage: RunStage, compose: Compose, made_anew: MadeAnew, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those it measured itself, too; but not where one of these is another."""
    monkeypatch.setitem(RUNTIMES, "desk", Desk())
    table = tmp_path / "fake.json"
    given = (*LISTED[:2], "subnet=[min]", *FAKE, f"platform.table={table}")
    run_stage("benchmark", *given)
    measured = LatencyTable.load(table)
    assert measured.entries
    assert not made_anew(compose("benchmark", *given))
    LatencyTable({**measured.entries, "another": 7.0}, provenance=measured.provenance).save(table)
    assert not made_anew(compose("benchmark", *given))
    first = next(iter(measured.entries))
    LatencyTable({**measured.entries, first: 7.0}, provenance=measured.provenance).save(table)
    assert made_anew(compose("benchmark", *given))


def test_several_platforms_name_the_fastest_of_each_subnet(
    run_stage: RunStage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RUNTIMES, "desk", Desk())
    costs = {"small": (2, 1), "large": (1, 40)}  # a byte, and once: one is faster on 34 bytes, the other on 54
    listed = [
        f"+platforms.{name}={{_target_: tests.platforms.conftest.Fake, name: {name}, cache: {tmp_path}, "
        f"per_byte: {per_byte}, once: {once}}}"
        for name, (per_byte, once) in costs.items()
    ]
    found = run_stage("benchmark", *LISTED, "trust=true", *listed)
    largest, smallest = map(str, BLOCKS)
    assert found.figures["fastest"] == {largest: "large", smallest: "small"}
    assert [(row["platform"], row["subnet"]) for row in found.figures["subnets"]] == [
        ("small", largest),
        ("small", smallest),
        ("large", largest),
        ("large", smallest),
    ]
    assert "the fastest platform of each subnet" in capsys.readouterr().out
    assert {"picture_small", "picture_large", "table"} <= found.outputs.keys()
