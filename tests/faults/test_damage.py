"""A flipped bit in any artefact is seen: by the job that made it, which makes it anew, and by those that read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from spaceevo.artifacts import (
    Front,
    SpaceChoice,
    StageResult,
    cache_folder,
    checksums,
    file_hash,
    require_undamaged,
    write_json,
    write_sealed_json,
)
from spaceevo.artifacts.files import MACHINE
from spaceevo.errors import CheckpointError, SpaceEvoError, TableError
from spaceevo.nn.loading import read_checkpoint
from spaceevo.search.lut import BlockLut, lut_file_name, lut_keys, lut_record
from tests.faults.conftest import Start
from tests.stages.conftest import DIGITS, SPACE, World

FLIPS = 30


def flipped(path: Path, count: int = FLIPS) -> Iterable[int]:
    """Flip bits of a file, one at a time."""
    content = path.read_bytes()
    for place in Random(path.name).sample(range(8 * len(content)), count):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        yield place
    path.write_bytes(content)


@pytest.mark.parametrize(
    "job", ["cost", *(pytest.param(job, marks=pytest.mark.slow) for job in ("subnet_search", "export"))]
)
def test_every_file_of_a_result_is_checked_when_the_job_is_skipped(
    start: Callable[..., Start], job: str, tmp_path: Path
) -> None:
    made = start(job)()
    assert isinstance(made, StageResult)
    files = [path for given in made.outputs.values() for path in ([given] if Path(given).is_file() else [])]
    assert set(files) <= set(made.checksums)
    if job == "export":
        beside = {str(path) for path in (tmp_path / "runs/export").glob("[!.]*.*")}
        told = {str(tmp_path / "runs/export" / name) for name in ("result.json", "progress.json")}
        assert beside <= {*made.checksums, *told}
    assert not list(made.changed_files())
    for path in map(Path, made.checksums):
        for _ in flipped(path, 5):
            assert list(made.changed_files()) == [str(path)]
    for _ in flipped(tmp_path / "runs" / job / "result.json"):
        with pytest.raises(CheckpointError, match=r"result\.json"):
            StageResult.load(tmp_path / "runs" / job)


def test_a_damaged_output_is_said_and_made_anew(
    start: Callable[..., Start], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    start("space_search")()
    best = world.layout.space_choice("digits")
    content = best.read_bytes()
    next(iter(flipped(best)))
    capsys.readouterr()
    start("space_search")()
    assert f"space_search: runs again, since {best} is not as it was made" in capsys.readouterr().out
    assert best.read_bytes() == content


def test_records_and_weights_are_checked_when_they_are_read(start: Callable[..., Start], world: World) -> None:
    start("space_search")()
    start("subnet_search")()
    best, folder = world.layout.space_choice("digits"), replace(world.layout, quant="off").subnet_search(SPACE)
    weights = [world.layout.supernet(SPACE, False), *(folder / "subnets").iterdir()]
    reads: dict[Path, Callable[[Path], object]] = {best: SpaceChoice.read, folder / "front.json": Front.read}
    reads |= dict.fromkeys(weights, lambda path: read_checkpoint(path, "weights", "this command"))
    assert len(reads) >= 4
    for path, read in reads.items():
        read(path)
        for place in flipped(path):
            with pytest.raises(SpaceEvoError, match=path.name):
                read(path)
            assert place >= 0


def test_tables_are_checked_when_they_are_read(world: World) -> None:
    path = world.lut / lut_file_name(DIGITS, next(iter(lut_keys(DIGITS))))
    write_json(lut_record(path), {"table": file_hash(path)})
    BlockLut.load(world.lut, DIGITS)
    for _ in flipped(path):
        with pytest.raises(TableError, match=r"csv is damaged, or was edited: .* make it again with: .*block_lut"):
            BlockLut.load(world.lut, DIGITS)
    write_sealed_json(lut_record(path), {"table": file_hash(path)})
    for _ in flipped(lut_record(path)):
        with pytest.raises(TableError, match=r"csv is damaged, or was edited"):
            BlockLut.load(world.lut, DIGITS)
    path.write_text(path.read_text().replace("1.0", "1.5", 1))
    lut_record(path).unlink()
    BlockLut.load(world.lut, DIGITS)  # on purpose


def test_exported_files_are_checked_against_the_result_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "subnet_int8.onnx"
    path.write_bytes(bytes(range(256)) * 4)
    require_undamaged(path, "the command")
    StageResult("export", "", None, {}, checksums=checksums([path])).save(tmp_path)
    require_undamaged(path, "the command")
    for _ in flipped(path):
        with pytest.raises(CheckpointError, match="is damaged: it is not as it was made; make it again with: the comm"):
            require_undamaged(path, "the command")


def test_what_killed_processes_left_in_the_cache_is_removed(start: Callable[..., Start]) -> None:
    half = cache_folder("tars") / f".a.npz.{MACHINE}-{2**22 + 1}-01234567.tmp"
    half.parent.mkdir(parents=True, exist_ok=True)
    half.touch()
    start("cost")()
    assert not half.exists()
