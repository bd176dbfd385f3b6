import json
from pathlib import Path

import pytest

from spaceevo.errors import TableError
from spaceevo.latency.roofline import Correction, Roofline
from spaceevo.latency.table import LatencyTable


def test_round_trip(tmp_path: Path) -> None:
    table = LatencyTable({"b": 2.0, "a": 1.5}, {"platform": "test", "machine": "none"})
    table.save(tmp_path / "new" / "table.json")
    assert LatencyTable.load(tmp_path / "new" / "table.json") == table


def test_model_counts_and_correction_round_trip(tmp_path: Path) -> None:
    model = Roofline({"ResNet relu": {"constant": 0.01, "weights": 0.1}})
    table = LatencyTable({"a": 1.0}, {"machine": "m", "dispersion": 1.02}, {"a": 3}, model, Correction(1.1, 0.06))
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == table
    (tmp_path / "table.json").write_text((tmp_path / "table.json").read_text(), encoding="utf-8-sig")
    assert LatencyTable.load(tmp_path / "table.json") == table


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ('"model": 3', "model must be an object, not 3"),
        ('"correction": {"slope": 2}', "correction has no slope"),
        ('"correction": {"scale": "1"}', "correction: scale is '1'; allowed: 1e-09…1e[+]09"),
        ('"correction": {"scale": 0}', "correction: scale is 0; allowed: 1e-09…1e[+]09"),
        ('"correction": {"scale": -1}', "correction: scale is -1; allowed"),
        ('"correction": {"ms_per_mparam": true}', "correction: ms_per_mparam is True; allowed"),
        ('"counts": {"a": "x"}', "counts: a is 'x'; allowed"),
        ('"model": {"ResNet relu": 1}', "model of ResNet relu must be an object"),
        ('"model": {"ResNet relu": {"constant": -1}}', "model of ResNet relu: constant is -1; allowed"),
        ('"model": {"ResNet relu": {"constant": NaN}}', "model of ResNet relu: constant is nan; allowed"),
        (
            '"model": {"ResNet relu": {"weight": 1}}',
            "model of ResNet relu: weight is no kind of work; allowed: weights[?]; delete it",
        ),
    ],
)
def test_broken_parts_are_named(tmp_path: Path, part: str, message: str) -> None:
    (tmp_path / "table.json").write_text(f'{{"blocks": {{}}, {part}}}')
    with pytest.raises(TableError, match=message):
        LatencyTable.load(tmp_path / "table.json")


def test_a_table_without_blocks_and_what_is_no_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text('{"provenance": {}}')
    with pytest.raises(TableError, match="has no blocks"):
        LatencyTable.load(tmp_path / "table.json")
    with pytest.raises(TableError, match="is no file; remove it"):
        LatencyTable.load(tmp_path)


def test_plain_form(tmp_path: Path) -> None:
    path = tmp_path / "plain.json"
    path.write_text('{"FirstConvBlock_224_3_16_3_None_2_relu": 1}', encoding="utf-8-sig")  # as Windows' editor does
    table = LatencyTable.load(path)
    assert table.entries == {"FirstConvBlock_224_3_16_3_None_2_relu": 1.0}
    assert table.provenance == {}


@pytest.mark.parametrize("value", ["fast", None, True, 0, -1.5, float("nan"), float("inf"), [1], 1e39, 1e-12])
def test_bad_entry_is_named(tmp_path: Path, value: object) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"good": 1.0, "bad": value}))
    with pytest.raises(TableError) as error:
        LatencyTable.load(path)
    assert str(path) in str(error.value)
    assert f"bad is {value!r}; it must be a positive number" in str(error.value)


@pytest.mark.parametrize("text", ["{", "[1]", '{"blocks": [1]}', '{"blocks": {}, "provenance": 3}'])
def test_broken_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(TableError, match=r"latency table .*table\.json"):
        LatencyTable.load(path)


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"none\.json does not exist; set platform\.table"):
        LatencyTable.load(tmp_path / "none.json")


def test_a_changed_table_is_refused_and_one_without_its_checksum_taken(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    LatencyTable({"a": 1.5}).save(path)
    path.write_text(path.read_text().replace("1.5", "1.25"))
    with pytest.raises(TableError, match=r"is damaged, or was edited: its checksum differs; delete it or set platform"):
        LatencyTable.load(path)
    lines = [line for line in path.read_text().splitlines() if '"checksum"' not in line]
    path.write_text("\n".join(lines))  # by hand, on purpose
    assert LatencyTable.load(path).entries == {"a": 1.25}
