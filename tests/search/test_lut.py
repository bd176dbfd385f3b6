"""Look-up tables: the row format, faults that name their place, and the cache."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spaceevo.errors import MissingArtifactError, TableError
from spaceevo.search.lut import BlockLut, LutKey, LutRow, lut_file_name, lut_keys, read_lut_file, write_lut_file
from spaceevo.space.description import superspace
from spaceevo.space.superspace import Superspace

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"published data is not at {REFERENCE}")
LINE = "3#32#None_5#24#1.5,1x32x80x80,0.3918,19.5072,0.0130,0.9899"


@pytest.fixture(scope="module")
def space() -> Superspace:
    return superspace("digits")


def write_tables(folder: Path, space: Superspace) -> Path:
    """Three rows per resolution; loss = 1 + stage, latency = the row's number in ms."""
    for key in lut_keys(space):
        sizes = [space.input_hw(space.searched[key.stage].name, r) for r in space.block_resolutions]
        rows = [LutRow("3#16#2", 8, size, 1.0 + key.stage, 1.0, 0.1, n) for n, size in enumerate(sizes * 3, start=1)]
        write_lut_file(folder / lut_file_name(space, key), rows)
    return folder


@pytest.fixture
def folder(tmp_path: Path, space: Superspace) -> Path:
    return write_tables(tmp_path / "lut", space)


def cache_file(folder: Path) -> Path:
    (file,) = (folder / ".cache").iterdir()
    return file


def test_row_is_read_and_written_back() -> None:
    row = LutRow.parse(LINE)
    assert row == LutRow("3#32#None_5#24#1.5", 32, 80, 0.3918, 19.5072, 0.0130, 0.9899)
    assert str(row) == LINE


def test_small_latency_keeps_its_digits() -> None:
    row = LutRow("3#16#2", 8, 16, 0.123456789, 1234.56789, 0.0000123456, 0.00123456)
    assert str(row) == "3#16#2,1x8x16x16,0.123457,1234.5679,1.23456e-05,0.00123456"
    assert LutRow.parse(str(row)).latency_ms == 0.00123456


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("3#32#2,1x32x80x80,0.4,1,1", ["5 columns instead of 6"]),
        (LINE + ",7", ["7 columns instead of 6"]),
        ("", ["1 columns instead of 6"]),
        ("3#x#2,1x32x80x80,0.4,1,1,1", ["sub-stage", "'3#x#2'"]),
        ("3#32#2,1x32x80,0.4,1,1,1", ["input shape '1x32x80'", "1xCxHxW"]),
        ("3#32#2,1x32x80x70,0.4,1,1,1", ["input shape '1x32x80x70'", "equal"]),
        ("3#32#2,1x32x80x80,oops,1,1,1", ["loss 'oops'", "number"]),
        ("3#32#2,1x32x80x80,0,1,1,1", ["loss '0'", "greater than 0"]),
        ("3#32#2,1x32x80x80,0.4,nan,1,1", ["MFLOPs 'nan'"]),
        ("3#32#2,1x32x80x80,0.4,1,inf,1", ["MParams 'inf'"]),
        ("3#32#2,1x32x80x80,0.4,1,1,-1", ["latency ms '-1'", "0 or greater"]),
    ],
)
def test_bad_row_names_file_line_column_and_value(tmp_path: Path, line: str, words: list[str]) -> None:
    path = tmp_path / "stage1_0_0.csv"
    path.write_text(f"{LINE}\n{line}\n{LINE}\n")
    with pytest.raises(TableError) as caught:
        read_lut_file(path)
    for word in [str(path), "line 2", *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "stage1_0_0.csv"
    path.write_text(f"{LINE}\n", encoding="utf-8-sig")
    assert read_lut_file(path) == [LutRow.parse(LINE)]


def test_empty_and_binary_files_are_faults(tmp_path: Path) -> None:
    path = tmp_path / "stage1_0_0.csv"
    path.write_text("\n")
    with pytest.raises(TableError, match="empty"):
        read_lut_file(path)
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(TableError, match="line 1"):
        read_lut_file(path)


def test_tables_are_split_by_resolution(folder: Path, space: Superspace) -> None:
    lut = BlockLut.load(folder, space)
    small, large = lut.samples[LutKey(stage=2, block=1, window=1)]
    assert small.loss.tolist() == [3.0, 3.0, 3.0]
    assert small.latency_ms.tolist() == [1.0, 3.0, 5.0]
    assert large.latency_ms.tolist() == [2.0, 4.0, 6.0]
    assert large.latency_ms.dtype == np.float32


def test_missing_folder_names_the_command(tmp_path: Path, space: Superspace) -> None:
    with pytest.raises(MissingArtifactError, match=r"\+stage=block_lut superspace=digits"):
        BlockLut.load(tmp_path / "none", space)


def test_missing_files_are_listed_with_the_command(folder: Path, space: Superspace) -> None:
    (folder / "stage2_1_0.csv").unlink()
    (folder / "stage3_2_1.csv").unlink()
    with pytest.raises(TableError) as caught:
        BlockLut.load(folder, space)
    for words in ("2 of 18", "stage2_1_0.csv, stage3_2_1.csv", "python -m spaceevo +stage=block_lut superspace=digits"):
        assert words in str(caught.value)


def test_unknown_resolution_names_the_row(folder: Path, space: Superspace) -> None:
    path = folder / "stage2_1_0.csv"
    path.write_text(path.read_text() + "3#24#2,1x16x9x9,0.4,1,1,1\n")
    with pytest.raises(TableError, match=r"stage2_1_0.csv, line 7: input shape '1x16x9x9' has height 9; allowed: 6, 8"):
        BlockLut.load(folder, space)


def test_resolution_without_rows_is_a_fault(folder: Path, space: Superspace) -> None:
    write_lut_file(folder / "stage2_1_0.csv", [LutRow("3#24#2", 16, 6, 0.4, 1.0, 1.0, 1.0)])
    with pytest.raises(TableError, match=r"stage2_1_0.csv has no row of resolution 32 \(input height 8\)"):
        BlockLut.load(folder, space)


def assert_same(first: BlockLut, second: BlockLut, space: Superspace) -> None:
    for key in lut_keys(space):
        for one, other in zip(first.samples[key], second.samples[key], strict=True):
            np.testing.assert_array_equal(one, other)


def test_cache_gives_the_same_tables(folder: Path, space: Superspace, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = BlockLut.load(folder, space)
    monkeypatch.setattr("spaceevo.search.lut.read_lut_file", None)  # parsing again would fail
    assert_same(BlockLut.load(folder, space), plain, space)


def test_changed_table_makes_the_cache_stale(folder: Path, space: Superspace) -> None:
    BlockLut.load(folder, space)
    path = folder / "stage1_0_0.csv"
    before = path.stat()
    path.write_text(path.read_text().replace("1.0000,1.0000,0.1000", "1.2500,1.0000,0.1000"))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as tools that keep times leave it
    assert BlockLut.load(folder, space).samples[LutKey(0, 0, 0)][0].loss.tolist() == [1.25] * 3


@pytest.mark.parametrize("content", [b"", b"not a zip", "cut", "foreign"])
def test_broken_cache_is_made_again(folder: Path, space: Superspace, content: bytes | str) -> None:
    plain = BlockLut.load(folder, space)
    file = cache_file(folder)
    whole = file.read_bytes()
    if content == "foreign":
        np.savez(file, other=np.zeros(3))
    else:
        file.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)  # type: ignore[arg-type]
    assert_same(BlockLut.load(folder, space), plain, space)
    assert file.read_bytes()[:2] == b"PK"
    assert len(file.read_bytes()) == len(whole)


def test_no_damage_to_the_cache_changes_a_table(folder: Path, space: Superspace) -> None:
    plain = BlockLut.load(folder, space)
    file = cache_file(folder)
    whole = file.read_bytes()
    entries = [match.start() + 10 for match in re.finditer(b"PK\x01\x02", whole)]  # how each is compressed
    for place in [*entries, *range(0, len(whole), 97)]:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        assert_same(BlockLut.load(folder, space), plain, space)


def test_cache_goes_where_it_may(
    folder: Path, space: Superspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path / "user"))
    BlockLut.load(folder, space, cache_dir=tmp_path / "given")
    assert list((tmp_path / "given").iterdir())
    folder.chmod(0o555)
    BlockLut.load(folder, space)
    folder.chmod(0o755)
    assert not (folder / ".cache").exists()
    assert list((tmp_path / "user" / "lut").iterdir())


def test_unwritable_cache_is_no_fault(folder: Path, space: Superspace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(BlockLut.load(folder, space, cache_dir=tmp_path / "file" / "cache").samples[LutKey(0, 0, 0)]) > 0


def test_shared_input_size_serves_both_resolutions(tmp_path: Path, space: Superspace) -> None:
    near = replace(space, block_resolutions=(31, 32))
    assert {near.input_hw("stage1", r) for r in near.block_resolutions} == {16}
    first, second = BlockLut.load(write_tables(tmp_path / "lut", near), near).samples[LutKey(0, 0, 0)]
    np.testing.assert_array_equal(first, second)
    assert len(first.loss) == 6


@needs_reference
@pytest.mark.parametrize("name", ["mobilew", "onnxw"])
def test_published_tables_load_and_round_trip(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tables, space = REFERENCE / "block_lut" / name, superspace(name)
    lut = BlockLut.load(tables, space, cache_dir=tmp_path_factory.getbasetemp() / "lut-cache")
    for key in lut_keys(space):
        assert sum(len(samples.loss) for samples in lut.samples[key]) == 1000
    path = tables / "stage6_3_2.csv"
    write_lut_file(tmp_path / "copy.csv", read_lut_file(path))
    assert (tmp_path / "copy.csv").read_bytes() == path.read_bytes()
