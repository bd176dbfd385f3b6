"""The Q-T score under limits of several kinds, against sums written down again."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from spaceevo.errors import ConfigError, ConstraintError, TableError
from spaceevo.runtimes.hollow_program import NamedBlock, hollow_program
from spaceevo.runtimes.random_program import empty_program
from spaceevo.runtimes.tflm.memory import arena_parts, part_bytes
from spaceevo.search.limits import Kind, Limit
from spaceevo.search.lut import LutRow, lut_file_name, lut_keys, read_lut_file, write_lut_file
from spaceevo.search.optimum import OptimumSearch
from spaceevo.search.quality import QualityScorer
from spaceevo.space.cost import blocks_cost, stage_cost
from spaceevo.space.description import superspace
from spaceevo.space.encoding import format_substage, parse_substage
from spaceevo.space.operators import sample_substage
from spaceevo.space.placement import PlacedBlock, fixed_blocks, place

DIGITS = superspace("digits")
MEMBERS = [DIGITS.member(b, w) for b in np.ndindex(3, 3, 3) for w in np.ndindex(2, 2, 2)]


def write_tables(folder: Path, rows: int, latency_ms: float | None = None) -> Path:
    """Real sub-stages, the same number at each resolution; what computes more loses less and takes longer."""
    rng, noise = Random(3), np.random.default_rng(3)
    for key in lut_keys(DIGITS):
        stage = DIGITS.searched[key.stage].name
        space = DIGITS.stage_space(stage, key.block, key.window)
        found = []
        for n in range(rows):
            hw = DIGITS.input_hw(stage, DIGITS.block_resolutions[n % 2])
            blocks, cin = sample_substage(space, rng), rng.choice(space.cins)
            cost = blocks_cost(space.specs(blocks, cin), hw)
            loss = float(noise.uniform(0.2, 0.4)) / (1 + cost.mmacs)
            ms = cost.mmacs * float(noise.uniform(0.5, 2.0)) if latency_ms is None else latency_ms
            found.append(LutRow(format_substage(blocks), cin, hw, loss, 1.0, 1.0, ms))
        write_lut_file(folder / lut_file_name(DIGITS, key), found)
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("lut"), 40)


def placed(folder: Path, number: int, resolution: int) -> list[list[PlacedBlock]]:
    """The blocks of each stage of digits-012-010 where every table has one row for a resolution."""
    found = []
    for key in (key for key in lut_keys(DIGITS) if (key.block, key.window) == ((0, 0), (1, 1), (2, 0))[key.stage]):
        row = read_lut_file(folder / lut_file_name(DIGITS, key))[number]
        space = DIGITS.stage_space(DIGITS.searched[key.stage].name, key.block)
        found.append(place(space.specs(parse_substage(row.substage), row.cin), row.hw))
        assert row.hw == DIGITS.input_hw(DIGITS.searched[key.stage].name, resolution)
    return found


def test_demands_of_one_row_a_table_are_sums_over_stages(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, 2)
    limits = [Limit.of({"mmacs": 50, "mparams": 50, "file_kb": 900, "peak_ram_kb": 900})]
    scorer = QualityScorer(folder, DIGITS, limits, 0.0, samples=10)
    found = {kind: scorer.sampled_demand(kind, "digits-012-010") for kind in ("mmacs", "mparams", "peak_ram_kb")}
    for number, resolution in enumerate(DIGITS.block_resolutions):
        blocks = fixed_blocks(DIGITS, resolution)
        stages = placed(folder, number, resolution)
        counts = [blocks_cost([spec], hw) for spec, hw in [*blocks, *(block for stage in stages for block in stage)]]
        mmacs, mparams = (sum(getattr(count, kind) for count in counts) for kind in ("mmacs", "mparams"))
        assert found["mmacs"][[0, -1][number]] == pytest.approx(mmacs, rel=1e-6)
        assert found["mparams"][[0, -1][number]] == pytest.approx(mparams, rel=1e-6)
        row = [*blocks, *(block for stage in stages for block in stage)]
        parts = [part_bytes(hollow_program([NamedBlock("stage0.0", *block)])) for block in row]
        planned, lasting = arena_parts(empty_program((3, resolution, resolution)))
        memory = max(planned, *(part for part, _ in parts)) + lasting + sum(part for _, part in parts)
        assert found["peak_ram_kb"][[0, -1][number]] == pytest.approx(memory / 1e3, rel=1e-6)


def test_macs_of_a_row_are_those_of_the_stage(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, 2)
    scorer = QualityScorer(folder, DIGITS, Limit.of({"mmacs": 50}), 0.0, samples=10)
    total = sum(blocks_cost([spec], hw).mmacs for spec, hw in fixed_blocks(DIGITS, 24))
    for stage, (block, window) in enumerate(((0, 0), (1, 1), (2, 0))):
        name = DIGITS.searched[stage].name
        row = read_lut_file(folder / f"{name}_{block}_{window}.csv")[0]
        total += stage_cost(DIGITS, name, block, row.substage, row.cin, row.hw).mmacs
    assert scorer.sampled_demand("mmacs", "digits-012-010")[0] == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    "most",
    [{"mmacs": 0.7}, {"peak_ram_kb": 34.0}, {"ms": 0.7, "mparams": 0.06}, {"ms": 0.6, "mmacs": 0.7, "peak_ram_kb": 36}],
)
def test_p_counts_the_subnets_within_all_limits(tables: Path, most: dict[Kind, float]) -> None:
    limit = Limit.of(most)
    scorer = QualityScorer(tables, DIGITS, limit, 0.1, samples=4000)
    some = False
    for member in MEMBERS[::31]:
        loss, latency_ms = scorer.sampled(member)
        figures = {kind: latency_ms if kind == "ms" else scorer.sampled_demand(kind, member) for kind in most}
        within = np.all([figures[kind] <= bound for kind, bound in most.items()], axis=0)
        quality = scorer.score(member)
        assert quality.probability == pytest.approx(within.mean() + 1e-5, rel=1e-9)
        assert within.mean() < 0.99
        some |= within.mean() > 0.01
        best = np.sort(loss[within])[:50]
        assert not len(best) or quality.loss == pytest.approx(best.sum() / (len(best) + 1e-5), rel=1e-6)
    assert some  # the comparison above must be able to fail


def test_the_optimum_under_limits_is_that_of_all_spaces(tables: Path) -> None:
    limits = [Limit.of({"mmacs": bound, "peak_ram_kb": 26}) for bound in (0.6, 0.9)]
    scorer = QualityScorer(tables, DIGITS, limits, 0.0, samples=1000)
    best = max(MEMBERS, key=lambda member: scorer.score(member).score)
    found = OptimumSearch(scorer, MEMBERS[0]).run()
    assert (found.space, found.score) == (best, scorer.score(best).score)


def test_a_limit_that_no_row_meets_is_told_with_the_least(tables: Path) -> None:
    fault = (
        r"limit.mmacs = 0.01: no sampled subnet of digits .* the least is 0\.\d+, with .* of stage1_._.\.csv, .* at r"
    )
    with pytest.raises(ConstraintError, match=fault):
        QualityScorer(tables, DIGITS, Limit.of({"mmacs": 0.01}), 0.0)
    with pytest.raises(ConstraintError, match=r"limit.peak_ram_kb = 3: .* kB of RAM; the least is \d\d"):
        QualityScorer(tables, DIGITS, Limit.of({"peak_ram_kb": 3, "mmacs": 9}), 0.0)
    with pytest.raises(ConfigError, match="limit.mmacs -1.0 must be a positive number of MMACs"):
        QualityScorer(tables, DIGITS, Limit.of({"mmacs": -1}), 0.0)


def test_the_least_of_the_tables_is_reached_by_the_rows_told(tables: Path) -> None:
    scorer = QualityScorer(tables, DIGITS, Limit.of({"mmacs": 9}), 0.0, samples=10)
    least, text = scorer._demands.least("mmacs")
    rows, resolution = text.split(" at resolution ")
    total = sum(blocks_cost([spec], hw).mmacs for spec, hw in fixed_blocks(DIGITS, int(resolution)))
    for stage, row in zip(DIGITS.searched, rows.split(", "), strict=True):
        substage, name = row.split(" of ")
        block = int(name.split("_")[1])
        hw = DIGITS.input_hw(stage.name, int(resolution))
        found = [each for each in read_lut_file(tables / name) if (each.substage, each.hw) == (substage, hw)]
        total += min(stage_cost(DIGITS, stage.name, block, substage, each.cin, hw).mmacs for each in found)
    assert least == pytest.approx(total, rel=1e-5)
    assert least == pytest.approx(min(scorer.demand_range("mmacs", member)[0] for member in MEMBERS), rel=1e-6)


def test_tables_without_latencies_serve_other_limits(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, 4, latency_ms=float("nan"))
    scorer = QualityScorer(folder, DIGITS, Limit.of({"mmacs": 0.8}), 0.0, samples=100)
    assert scorer.score(MEMBERS[0]).probability > 0.1
    with pytest.raises(TableError, match=r"tables of digits have no latencies \(platform=none\)"):
        QualityScorer(folder, DIGITS, [5.0], 0.1)
