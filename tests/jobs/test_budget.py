"""A pipeline is fitted into hours by scaling epochs and samples; what was fitted once stays as it is."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from omegaconf import DictConfig

from spaceevo.artifacts import StageResult
from spaceevo.errors import ConfigError
from spaceevo.jobs.budget import BUDGET_FILE, fit, kept, origin_of
from spaceevo.jobs.costs import Cost
from spaceevo.jobs.pipeline import PipelineJob
from spaceevo.jobs.runner import make_job
from spaceevo.jobs.steps import Outlook
from spaceevo.platforms.measuring import BLOCKS
from spaceevo.search.lut import lut_file_name
from spaceevo.space.operators import sample_networks
from spaceevo.space.placement import block_key, subnet_blocks
from spaceevo.stages.block_lut import ROWS, BlockLutJob
from tests.jobs.conftest import Compose, changed

HOUR = 3600.0
Looked = tuple[Outlook, DictConfig]


def step(job: str, *overrides: str) -> Looked:
    with changed(job, *overrides) as config:
        return Outlook(job, "run", job=make_job(config)), config.copy()


def cost(hours: float, **hours_by_kind: float) -> Cost:
    by_kind = {name.replace("_", " "): HOUR * it for name, it in hours_by_kind.items()}
    return Cost(HOUR * hours, 0.0, 1.0, 1.0, by_kind, "tried")


@pytest.fixture(scope="module")
def steps() -> list[Looked]:
    """36 epochs of a supernet, and look-up tables of 30 rows each."""
    return [step("supernet", "space=digits-222-000"), step("block_lut")]


COSTS = {"supernet": cost(20.0, training_steps=17.0, evaluations=1.0), "block_lut": cost(8.0, rows=6.0)}


def test_epochs_and_samples_are_scaled_by_one_factor(steps: list[Looked]) -> None:
    outlooks, configs = zip(*steps, strict=True)
    found = fit(16.0, outlooks, configs, COSTS, 0.0)  # 4 h stay, 24 h are halved
    assert [(row.setting, row.asked, row.scaled) for row in found.rows] == [
        ("recipe.supernet.fp32.epochs", 36, 18),
        ("recipe.supernet.fp32.warmup_epochs", 2.0, 1.0),
        ("recipe.block_lut.samples", 30, 15),
    ]
    assert found.hours == pytest.approx(16.0)


def test_what_a_pipeline_takes_besides_its_steps_is_part_of_the_budget(steps: list[Looked]) -> None:
    outlooks, configs = zip(*steps, strict=True)
    found = fit(16.0, outlooks, configs, COSTS, 4 * HOUR)  # 8 h stay, 24 h become a third
    assert [row.scaled for row in found.rows] == [12, pytest.approx(2 / 3, rel=1e-5), 10]
    assert found.hours == pytest.approx(16.0)


def test_blocks_are_measured_once_in_however_many_rows_they_are(steps: list[Looked], tmp_path: Path) -> None:
    """Half the rows have more than half of the blocks."""
    looked = [steps[0], step("block_lut", f"platform.cache={tmp_path}")]
    outlooks, configs = zip(*looked, strict=True)
    job = outlooks[1].job
    assert isinstance(job, BlockLutJob)
    whole = sample_networks(job.superspace, Random(0), 10).values()  # measured before, with all their blocks
    first = {block_key(*block) for network in whole for block in subnet_blocks(*network)}
    blocks = {
        rows: {
            block_key(*block)
            for table in job.blocks
            for _, placed in job.sampled(table, lut_file_name(job.superspace, table), rows)
            for block in placed
        }
        - first
        for rows in (5, 15, 30)
    }
    (scale,) = job.scales()
    assert job.amounts()[BLOCKS].times == len(blocks[30])
    for rows in (5, 15, 30):
        assert scale.share(BLOCKS, rows / 30) == len(blocks[rows]) / len(blocks[30])
        assert scale.share(ROWS, rows / 30) == rows / 30
    part = len(blocks[15]) / len(blocks[30])
    assert 0.5 < part < 1
    costs = {**COSTS, "block_lut": cost(8.0, rows=3.0, measured_blocks=3.0)}
    found = fit(14.501 + 3 * part, outlooks, configs, costs, 0.0)  # 4 h stay, 21 h are halved
    assert [row.scaled for row in found.rows] == [18, 1.0, 15]


def test_every_table_keeps_a_row_of_each_resolution(tmp_path: Path) -> None:
    """Without one the space search refuses the table."""
    job = step("block_lut", f"platform.cache={tmp_path}")[0].job
    assert isinstance(job, BlockLutJob)
    (scale,) = job.scales()
    drawn = {
        table: [row.resolution for row, _ in job.sampled(table, lut_file_name(job.superspace, table), 30)]
        for table in job.blocks
    }
    least = max(1 + max(rows.index(it) for it in job.superspace.block_resolutions) for rows in drawn.values())
    assert 1 < scale.least == least < 15
    assert [scale.scaled(factor) for factor in (0.0, 0.5, 1.0)] == [least, 15, 30]
    fewer = step("block_lut", f"platform.cache={tmp_path}", "recipe.block_lut.samples=2")[0].job
    assert fewer is not None and fewer.scales()[0].scaled(0.0) == 2


def test_what_was_scaled_counts_as_if_it_had_been_typed(steps: list[Looked]) -> None:
    outlooks, configs = zip(*steps, strict=True)
    words = fit(16.0, outlooks, configs, COSTS, 0.0).words
    typed = ["recipe.supernet.fp32.epochs=18", "recipe.supernet.fp32.warmup_epochs=1.0", "recipe.block_lut.samples=15"]
    assert words == typed
    by_words, by_hand = (step("supernet", "space=digits-222-000", *each)[0].job for each in (words, typed[:2]))
    assert by_words is not None and by_hand is not None and outlooks[0].job is not None
    assert by_words.fingerprint == by_hand.fingerprint != outlooks[0].job.fingerprint


def test_a_budget_that_suffices_scales_nothing(steps: list[Looked]) -> None:
    outlooks, configs = zip(*steps, strict=True)
    found = fit(28.0, outlooks, configs, COSTS, 0.0)
    assert (found.words, found.hours) == ([], 28.0)


def test_a_budget_below_one_epoch_and_row_is_refused(steps: list[Looked]) -> None:
    outlooks, configs = zip(*steps, strict=True)
    least = 4 + 18 / 36 + 6 * 5 / 30  # five rows have one of each resolution
    with pytest.raises(ConfigError, match=r"recipe\.budget_hours = 4; allowed: 5\.5 or more on this machine"):
        fit(4.0, outlooks, configs, COSTS, 0.0)
    assert fit(least + 0.001, outlooks, configs, COSTS, 0.0).rows[0].scaled == 1


def test_steps_of_unknown_cost_are_told_and_stay(steps: list[Looked], capsys: pytest.CaptureFixture[str]) -> None:
    outlooks, configs = zip(*steps, strict=True)
    found = fit(4.0, outlooks, configs, {"supernet": "a trial failed", "block_lut": COSTS["block_lut"]}, 0.0)
    assert found.words == ["recipe.block_lut.samples=10"]
    found.print()
    assert "supernet: its cost is not known, and not counted" in capsys.readouterr().out


def test_a_later_run_takes_up_what_was_fitted(steps: list[Looked], tmp_path: Path) -> None:
    outlooks, configs = zip(*steps, strict=True)
    fitted = fit(16.0, outlooks, configs, COSTS, 0.0)
    fitted.write(tmp_path / BUDGET_FILE)
    assert kept(tmp_path, 16.0, outlooks) == fitted
    assert kept(tmp_path, 15.0, outlooks) is None
    other = step("supernet", "space=digits-222-000", "seed=7")[0], outlooks[1]
    assert origin_of(other) != fitted.origin
    assert kept(tmp_path, 16.0, other) is None
    assert kept(tmp_path / "elsewhere", 16.0, outlooks) is None
    (tmp_path / BUDGET_FILE).write_text("{")
    assert kept(tmp_path, 16.0, outlooks) is None


def test_a_pipeline_is_fitted_once(compose: Compose, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []

    def found(*args: object) -> dict[str, Cost | str]:
        timed.append(1)
        return {"a": cost(10.0 * len(timed), training_steps=9.0)}

    monkeypatch.setattr("spaceevo.jobs.pipeline.find_costs", found)
    one = "recipe.pipeline.steps=[{title: a, stage: supernet, quant: 'off'}]"
    words = ["superspace=digits", "space=digits-222-000", f"data.root={images}", one]
    for _ in range(2):  # had it been fitted anew, costs would be others
        job = make_job(compose("+stage=pipeline", *words, "recipe.budget_hours=5.6"))
        assert isinstance(job, PipelineJob)
        fitted, _ = job._fitted(job.workspace.commands.composing)
        assert fitted == ["recipe.supernet.fp32.epochs=18", "recipe.supernet.fp32.warmup_epochs=1.0"]
    assert timed == [1]
    assert "recipe.budget_hours=5.6" in job.workspace.commands("pipeline")


def test_what_follows_a_step_of_a_pipeline_has_no_budget(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[DictConfig] = []
    monkeypatch.setattr(PipelineJob, "_fitted", lambda self, given: ([], {}))

    def ran(config: DictConfig, *_: object) -> StageResult:
        asked.append(config)
        return StageResult("", "", 0, {})

    monkeypatch.setattr("spaceevo.jobs.pipeline.run", ran)
    one = "recipe.pipeline.steps=[{title: a, stage: cost, quant: 'off'}]"
    make_job(compose("+stage=pipeline", "superspace=digits", "recipe.budget_hours=1", one)).work()
    assert [config.stage.name for config in asked] == ["cost", "report"]
    assert not any("budget" in make_job(config).workspace.commands("export") for config in asked)
