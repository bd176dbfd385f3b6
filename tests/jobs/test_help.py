"""What the program says of itself: on one screen what there is, on another the settings of a job."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from typing import get_args

import pytest

from spaceevo.jobs.help import job_help, overview
from spaceevo.jobs.runner import job_type
from spaceevo.jobs.settings import users_name
from spaceevo.jobs.words import composed, groups
from spaceevo.space.description import conf_files
from tests.jobs.conftest import changed, defaults

JOBS = sorted(conf_files("stage"))
SCREEN = 50  # lines


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def test_everything_is_listed_on_one_screen() -> None:
    text = overview()
    assert len(text.splitlines()) <= SCREEN
    assert max(map(len, text.splitlines())) <= 120
    for group in ("stage", "superspace", "platform", "data", "teacher", "recipe", "model"):
        assert all(name in text for name in conf_files(group))
    assert "mobilew/block_kd_int8" in text


@pytest.mark.parametrize("job", JOBS)
def test_a_job_lists_its_settings_on_one_screen(job: str) -> None:
    config = defaults(job)
    text = job_help(config)
    lines = text.splitlines()
    assert len(lines) <= SCREEN
    assert max(map(len, lines)) <= 100
    settings_type, *_ = next(get_args(base) for base in job_type(config).__orig_bases__)  # type: ignore[attr-defined]
    for field in fields(settings_type):
        name = users_name(("stage", "settings", field.name), config)
        shown = name.partition(".")[0] if name.partition(".")[0] in groups() and not name.startswith("recipe") else name
        assert f"  {shown}" in text, name


READ_ALONE = """
import sys
from spaceevo.jobs.help import job_help
from spaceevo.jobs.standins import SLOW
from spaceevo.jobs.words import composed

for job in sys.argv[1:]:
    print(job_help(composed([f"+stage={job}"], None)))
assert SLOW.isdisjoint(sys.modules)  # nor do stand-ins stay
"""


@pytest.mark.parametrize("jobs", [["supernet", "export", "fit_latency"], pytest.param(JOBS, marks=pytest.mark.slow)])
def test_settings_are_read_without_the_libraries_that_jobs_compute_with(jobs: list[str]) -> None:
    told = subprocess.check_output([sys.executable, "-c", READ_ALONE, *jobs], text=True)
    assert told == "".join(f"{job_help(composed([f'+stage={job}'], None))}\n" for job in jobs)


def row(text: str, name: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith(f"  {name} = "))
    return " ".join(line.split())


def test_defaults_and_what_is_allowed_are_as_the_settings_have_them() -> None:
    text = job_help(defaults("supernet"))
    assert row(text, "recipe.supernet.fp32.schedule").startswith(
        "recipe.supernet.fp32.schedule = cosine cosine, linear · how the rate falls"
    )
    assert row(text, "max_epochs") == "max_epochs = null whole ≥ 1, null · cuts the recipe short"
    assert row(text, "quant").startswith("quant = off deploy, off, published, reduced_range · scheme of INT")
    assert row(text, "recipe.dropout").startswith("recipe.dropout = 0.0 number ≥ 0 and < 1 · ")
    assert row(text, "recipe.supernet.fp32.optimizer.momentum").endswith("= 0.9 number ≥ 0 and < 1")
    assert "data.holdout" not in text
    assert "--cfg job -p <group>, of data, trainer" in " ".join(text.split())
    assert "recipe.teacher" not in text


def test_what_follows_another_setting_until_it_is_set_is_listed_too() -> None:
    text = job_help(defaults("transfer"))
    assert row(text, "source.superspace").startswith("source.superspace = digits text")
    assert row(text, "superspace").startswith("superspace = digits digits, ")


def test_words_beside_help_count() -> None:
    with changed("export", "format=[tflite]", "recipe.export.repeats=7") as config:
        text = job_help(config)
    assert row(text, "format").startswith('format = ["tflite"] text, list, null')
    assert row(text, "recipe.export.repeats").startswith("recipe.export.repeats = 7 whole ≥ 1")
