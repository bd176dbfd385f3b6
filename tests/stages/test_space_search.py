"""The stage on tables of random figures: what it writes, that it continues after a kill, and its faults."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import initialize_config_dir

from spaceevo.artifacts import SpaceChoice, StageResult, read_sealed_json
from spaceevo.errors import ConfigError, ConstraintError, EncodingError, TableError
from spaceevo.jobs import runner
from spaceevo.search.limits import Limit, limits_of
from spaceevo.search.quality import Quality, QualityScorer
from spaceevo.space.description import conf_folder, superspace
from spaceevo.space.superspace import SpaceMember
from spaceevo.stages import space_search
from tests.composing import composed
from tests.stages.conftest import World


@pytest.fixture
def tables(shared_world: World) -> Path:
    """Random figures, another mean loss and latency in every file."""
    return shared_world.lut


def settings(tables: Path, output: Path, *more: str) -> list[str]:
    return [
        "+stage=space_search",
        "superspace=digits",
        f"paths.lut={tables}",
        f"paths.root={output}",
        "platform.fixed_latency_ms=0.5",
        "latency_constraint=5.5",
        "recipe.space_search.samples=5000",
        *more,
    ]


def run(tables: Path, output: Path, *more: str) -> StageResult:
    with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        overrides = [*settings(tables, output, *more), f"paths.output={output / 'found'}"]
        return runner.run(composed(overrides))


def test_tables_that_are_missing_are_made_by_the_words_that_were_given(world: World, tmp_path: Path) -> None:
    next(world.lut.glob("*.csv")).unlink()
    with pytest.raises(TableError, match=r"make them with: .*=block_lut .*paths\.root=") as caught:
        run(world.lut, tmp_path)
    assert "latency_constraint" not in str(caught.value)


def comparable(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "found" / "result.json").read_text())
    return {name: record[name] for name in record["figures"]}


def test_the_best_of_all_spaces_is_found(tables: Path, tmp_path: Path) -> None:
    result = run(tables, tmp_path)
    scorer = QualityScorer(tables, "digits", 5.5, 0.5, samples=5000)
    space = scorer.superspace
    members = [space.member(b, w) for b in np.ndindex(3, 3, 3) for w in np.ndindex(2, 2, 2)]
    best = max(members, key=lambda member: scorer.score(member).score)
    assert result.figures["evaluations"] == len(members) == 216
    assert result.figures["space"] == str(best)
    assert result.figures["score"] == scorer.score(best).score
    assert (result.figures["fastest_ms"], result.figures["slowest_ms"]) == scorer.latency_range_ms(best)
    error = result.figures["score_standard_error"]
    assert error == scorer.fresh_scores(best).std(ddof=1)
    assert abs(result.figures["score_on_fresh_draws"] - result.figures["score"]) < 5 * error < 0.1
    quality = scorer.score(best)
    choice = SpaceChoice(str(best), (5.5,), quality.score, quality.probability, quality.loss)
    assert SpaceChoice.read(tmp_path / "checkpoints/block_kd/search/digits/best.json") == choice


def test_tables_and_pictures_hold_what_was_found(tables: Path, tmp_path: Path) -> None:
    result = run(tables, tmp_path, "latency_constraint=[4.5,5.5]")
    spaces = pd.read_csv(result.outputs["spaces"])
    assert len(spaces) == 50
    assert spaces["score"].is_monotonic_decreasing
    assert np.allclose(spaces["score_at_4.5ms"] + spaces["score_at_5.5ms"], spaces["score"])
    pd.testing.assert_frame_equal(spaces, pd.DataFrame(result.figures["spaces"]))
    history = pd.read_csv(result.outputs["history"])
    assert history["evaluation"].tolist() == list(range(1, 217))
    assert history["score"].max() == spaces["score"][0]
    for name in ("distributions", "score_by_evaluation"):
        assert Path(result.outputs[name]).read_bytes().startswith(b"\x89PNG")


def test_sensitivity_ranks_all_spaces_again(tables: Path, tmp_path: Path) -> None:
    settings = "recipe.space_search.sensitivity={t: [0.08, 0.9], a: [0.01, 2.0]}"
    rows = pd.DataFrame(run(tables, tmp_path, settings).figures["sensitivity"])
    as_searched = rows[(rows["t"] == 0.08) & (rows["a"] == 0.01)]
    assert as_searched["new_rank"].tolist() == as_searched["rank"].tolist() == list(range(1, 11))
    other = rows[(rows["t"] == 0.9) & (rows["a"] == 2.0)]
    members = [superspace("digits").member(b, w) for b in np.ndindex(3, 3, 3) for w in np.ndindex(2, 2, 2)]
    scorer = QualityScorer(tables, "digits", 5.5, 0.5, t=0.9, a=2.0, samples=5000)
    scores = {str(member): scorer.score(member).score for member in members}
    assert set(other["new_best"]) == {max(scores, key=scores.__getitem__)}
    for _, row in other.iterrows():
        assert row["score"] == pytest.approx(scores[row["space"]])
        assert row["new_rank"] == 1 + sum(score > scores[row["space"]] for score in scores.values())


@pytest.mark.slow
def test_proof_finds_what_a_short_search_missed(tables: Path, tmp_path: Path) -> None:
    short = run(tables, tmp_path, "recipe.space_search.local.total=3")
    proven = run(tables, tmp_path, "recipe.space_search.local.total=3", "recipe.space_search.prove=true")
    best = run(tables, tmp_path / "whole").figures["score"]
    assert short.figures["score"] < proven.figures["score"] == proven.figures["optimum_score"] == best
    assert proven.figures["search_reached_percent"] == pytest.approx(100 * short.figures["score"] / best)
    assert proven.figures["space"] == proven.figures["optimum_space"]


@pytest.mark.parametrize("method", ["local", pytest.param("ageing", marks=pytest.mark.slow)])
def test_a_killed_search_ends_as_an_undisturbed_one(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    more = [f"recipe.space_search.method={method}", "recipe.space_search.ageing={population: 30, sample: 8, total: 90}"]
    more.append("recipe.space_search.local.total=90")
    run(tables, tmp_path / "whole", *more)
    monkeypatch.setattr(space_search, "SAVE_EVERY", 10)
    score, calls = QualityScorer.score, 0

    def fragile(self: QualityScorer, member: SpaceMember) -> Quality:
        nonlocal calls
        calls += 1
        if calls == 45:
            raise KeyboardInterrupt
        return score(self, member)

    monkeypatch.setattr(QualityScorer, "score", fragile)
    with pytest.raises(KeyboardInterrupt):
        run(tables, tmp_path / "killed", *more)
    assert len(json.loads((tmp_path / "killed/found/search.json").read_text())["state"]["history"]) == 40
    run(tables, tmp_path / "killed", *more)
    assert comparable(tmp_path / "killed") == comparable(tmp_path / "whole")


def test_a_search_of_other_settings_starts_over(tables: Path, tmp_path: Path) -> None:
    run(tables, tmp_path, "recipe.space_search.local.total=50")
    result = run(tables, tmp_path, "recipe.space_search.local.total=60", "seed=3")
    assert result.figures["evaluations"] == 60


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("latency_constraint=fast", "latency_constraint = fast; allowed: auto or a number or a list or a mapping"),
        ("recipe.auto_point=1.1", "recipe.auto_point = 1.1; allowed: at most 1"),
        ("latency_constraint=[5,0]", "latency_constraint.1 = 0; allowed: above 0"),
        ("latency_constraint={phone: 5}", "latency_constraint has no entry for platform ort_cpu; it has phone"),
        ("space=[111_000]", "space.0 = 111000; allowed: a text .quote one that looks like a number."),
    ],
)
def test_values_of_a_wrong_type_are_one_line(tables: Path, tmp_path: Path, change: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}"):
        run(tables, tmp_path, change)


def test_a_limit_of_its_own_lies_where_it_is_asked_for(tables: Path, tmp_path: Path) -> None:
    given = ["latency_constraint=auto", "recipe.auto_point=0.85", "recipe.space_search.local.total=3"]
    found = run(tables, tmp_path, *given).figures
    fastest_ms, slowest_ms = QualityScorer(tables, "digits", 1e6, 0.5, samples=1000).latency_range_ms()
    asked_ms = fastest_ms + 0.85 * (slowest_ms - fastest_ms)
    assert found["latency_constraint_ms"] == pytest.approx(asked_ms, rel=0.01)  # three digits of it


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["latency_constraint=[5.5]", "latency_constraint={ort_cpu: 5.5, phone: 9}"])
def test_a_limit_may_be_asked_for_in_several_ways(tables: Path, tmp_path: Path, asked: str) -> None:
    found = run(tables, tmp_path, asked).figures
    assert found["latency_constraints_ms"] == [5.5]
    assert found["space"] == run(tables, tmp_path / "plain").figures["space"]


def test_a_search_goes_on_only_on_the_tables_it_began_with(tables: Path, tmp_path: Path) -> None:
    lut = shutil.copytree(tables, tmp_path / "lut")
    run(lut, tmp_path)
    saved = tmp_path / "found/search.json"
    state = read_sealed_json(saved)
    state["state"]["history"] = state["state"]["history"][:2]  # as if no more had been to do

    def again() -> int:
        saved.write_text(json.dumps(state))
        (tmp_path / "found/result.json").unlink()
        return int(run(lut, tmp_path).figures["evaluations"])

    assert again() == 2
    file = lut / "stage2_1_0.csv"
    file.write_text(file.read_text().replace("0.4", "0.5", 1))
    assert again() == 216


def test_given_spaces_are_scored_and_no_choice_is_made(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = superspace("digits")
    asked = [str(digits.member(b, w)) for b in np.ndindex(3, 3, 3) for w in np.ndindex(2, 2, 2)][:51]  # not 50 of them
    result = run(tables, tmp_path, f"space=[{','.join(asked)}]")
    shown = capsys.readouterr().out.partition("spaces asked for")[2].partition("space_search")[0]
    assert all(f"{row['score']:.4g}" in shown for row in result.figures["spaces"])
    assert {row["space"] for row in result.figures["spaces"]} == set(asked)
    assert result.figures["evaluations"] == 51
    assert not (tmp_path / "checkpoints").exists()


def test_what_was_found_stays_when_given_spaces_are_scored(tables: Path, tmp_path: Path) -> None:
    found = run(tables, tmp_path)
    choice = tmp_path / "checkpoints/block_kd/search/digits/best.json"
    before = choice.read_bytes()
    given = run(tables, tmp_path, "space=digits-012-101")
    folder = Path(found.outputs["spaces"]).parent
    assert choice.read_bytes() == before
    kept = [StageResult.load(place) for place in (folder, folder / "given")]
    assert [one and one.fingerprint for one in kept] == [found.fingerprint, given.fingerprint]
    assert list(found.changed_files()) == []


def test_a_limit_on_macs_needs_no_platform(tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = ["latency_constraint=auto", "platform=vnni", f"platform.table={tmp_path / 'none.json'}"]
    result = run(tables, tmp_path, *nowhere, "limit={mmacs: [0.5,0.6], mparams: 9}")
    limits = [Limit.of({"mmacs": bound, "mparams": 9}) for bound in (0.5, 0.6)]
    scorer = QualityScorer(tables, "digits", limits, 0.0, samples=5000)
    members = [scorer.superspace.member(b, w) for b in np.ndindex(3, 3, 3) for w in np.ndindex(2, 2, 2)]
    best = max(members, key=lambda member: scorer.score(member).score)
    assert result.figures["space"] == str(best)
    assert result.figures["limits"] == "0.5 MMACs, 9 MParams or 0.6 MMACs, 9 MParams"
    assert "fastest_ms" not in result.figures
    assert result.figures["least_mmacs"] == scorer.demand_range("mmacs", best)[0]
    assert {"score_at_0.5mmacs+9mparams", "greatest_mparams"} <= set(pd.read_csv(result.outputs["spaces"]).columns)
    choice = SpaceChoice.read(tmp_path / "checkpoints/block_kd/search/digits/best.json")
    assert (choice.latency_constraints_ms, limits_of(choice.limits)) == ((), tuple(limits))
    assert "latency is not limited" in capsys.readouterr().out
    assert "limit." not in result.next_command  # the choice says what it was made for
    assert Path(result.outputs["distributions"]).read_bytes().startswith(b"\x89PNG")


def test_limits_that_only_together_are_too_low_are_told(tables: Path, tmp_path: Path) -> None:
    lowest = QualityScorer(tables, "digits", [100.0], 0.5, samples=10).latency_range_ms()[0]
    asked = [f"latency_constraint={1.0001 * lowest}", "limit.mmacs=50", "recipe.space_search.local.total=30"]
    with pytest.raises(
        ConstraintError, match="latency_constraint and limit.mmacs: no sampled subnet .* within .* MMACs"
    ):
        run(tables, tmp_path, *asked)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            "limit.mmacs=0.0001",
            ConstraintError,
            r"limit.mmacs = 0.0001: no sampled subnet .* the least is 0\.\d+, with",
        ),
        ("limit.mmacs=[1,2] latency_constraint=[5,6]", ConfigError, "are lists; allowed: one list"),
        ("latency_constraint=0.9", ConstraintError, r"latency_constraint 0.9 ms: .* fastest takes \d"),
        ("space=[onnxw-151122-023231]", EncodingError, "not of superspace digits"),
        ("space=[digits-912-101]", EncodingError, "block index 9"),
        ("space=[]", ConfigError, "leave it out to search"),
        ("recipe.space_search.method=luck", ConfigError, "method = luck; allowed: local, ageing"),
        ("paths.lut=${paths.root}", TableError, "lacks 18 of 18 tables"),
    ],
)
def test_faults_name_the_value(tables: Path, tmp_path: Path, change: str, error: type[Exception], words: str) -> None:
    tmp_path.joinpath("found").mkdir()
    with pytest.raises(error, match=words):
        run(tables, tmp_path, *change.split())


@pytest.mark.slow
def test_a_sweep_over_another_limit_has_a_row_for_each(tables: Path, tmp_path: Path) -> None:
    given = [text for text in settings(tables, tmp_path) if not text.startswith(("latency_constraint", "platform"))]
    scorer = QualityScorer(tables, "digits", [Limit.of({"mmacs": 50})], 0.0, samples=10)
    least, greatest = scorer.demand_range("mmacs", "digits-111-000")
    tight, loose = round(0.9 * least + 0.1 * greatest, 3), round(1.1 * greatest, 3)
    command = [sys.executable, "-m", "spaceevo", "-m", *given, "platform=none", f"limit.mmacs={tight},{loose}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "multirun/space_search/sweep.csv")
    assert table["limit.mmacs"].tolist() == [tight, loose]
    assert table["score"][0] < table["score"][1]
    assert table["probability"][0] < table["probability"][1]


@pytest.mark.slow
def test_a_sweep_ends_in_one_table_and_picture(tables: Path, tmp_path: Path) -> None:
    stale = tmp_path / "multirun/space_search/2"
    (stale / ".hydra").mkdir(parents=True)
    (stale / ".hydra/overrides.yaml").write_text("[latency_constraint=4.5]")
    run(tables, tmp_path / "other").save(stale)
    os.utime(stale / ".hydra/overrides.yaml", (1e9, 1e9))
    command = [sys.executable, "-m", "spaceevo", "-m", *settings(tables, tmp_path, "latency_constraint=6.5,5")]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "space_search · 2 jobs" in done.stdout
    folder = tmp_path / "multirun/space_search"
    table = pd.read_csv(folder / "sweep.csv")
    assert table["latency_constraint"].tolist() == [6.5, 5.0]  # the stale job of an earlier sweep is left out
    assert table["score"][0] > table["score"][1]
    results = [json.loads((folder / str(job) / "result.json").read_text()) for job in (0, 1)]
    assert table["space"].tolist() == [result["space"] for result in results]
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "checkpoints").exists()  # jobs of a sweep keep their choice to themselves
