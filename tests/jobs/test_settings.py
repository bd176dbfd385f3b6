"""A wrong setting is told in one line: the name a user sets, its value, what is allowed."""

from __future__ import annotations

import pytest

from spaceevo.errors import ConfigError
from spaceevo.jobs.runner import make_job
from tests.jobs.conftest import Compose


def fault(compose: Compose, job: str, *overrides: str) -> str:
    """What reading the settings says; no image or file is looked at."""
    with pytest.raises(ConfigError) as caught:
        make_job(compose(f"+stage={job}", "superspace=digits", *overrides))
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("job", "override", "told"),
    [
        # of the job itself
        ("cost", "force=maybe", "force = maybe; allowed: true, false"),
        ("cost", "force=0", "force = 0; allowed: true, false"),
        ("teacher", "max_epochs=0", "max_epochs = 0; allowed: 1 or more"),
        ("teacher", "max_epochs=1.5", "max_epochs = 1.5; allowed: a whole number"),
        ("teacher", "seed=-1", "seed = -1; allowed: 0 or more | data.seed = -1; allowed: 0 or more"),
        ("teacher", "seed=one", "seed = one; allowed: a whole number | data.seed = one; allowed: a whole number"),
        ("supernet", "recipe.threads=0", "recipe.threads = 0; allowed: 1 or more"),
        ("supernet", "recipe.dropout=1", "recipe.dropout = 1; allowed: below 1"),
        ("supernet", "recipe.label_smoothing=-0.1", "recipe.label_smoothing = -0.1; allowed: 0 or more"),
        ("supernet", "space=3", "space = 3; allowed: a text"),
        ("block_kd", "block=3", "block = 3; allowed: a text or a list"),
        ("block_kd", "block=[stage1,3]", 'block = ["stage1", 3]; allowed: a text | block.1 = 3; allowed: a text'),
        ("finetune", "recipe.finetune.freeze_body=7", "recipe.finetune.freeze_body = 7; allowed: true, false"),
        (
            "block_kd",
            "recipe.nsr_variance_of=students",
            "recipe.nsr_variance_of = students; allowed: teacher, published",
        ),
        ("block_kd", "+recipe.lr_by_stage.fp32.stage1=0", "recipe.lr_by_stage.fp32.stage1 = 0; allowed: above 0"),
        # of components
        ("block_kd", "data.batch_size=x", "data.batch_size = x; allowed: a whole number"),
        ("block_kd", "data.batch_size=0", "data.batch_size = 0; allowed: 1 or more"),
        ("block_kd", "recipe.block_kd.fp32.epochs=0", "recipe.block_kd.fp32.epochs = 0; allowed: 1 or more"),
        (
            "supernet",
            "recipe.supernet.fp32.schedule=square",
            "recipe.supernet.fp32.schedule = square; allowed: cosine, linear",
        ),
        ("supernet", "recipe.supernet.fp32.ema_decay=1", "recipe.supernet.fp32.ema_decay = 1; allowed: below 1"),
        ("supernet", "recipe.supernet.fp32.clip_norm=0", "recipe.supernet.fp32.clip_norm = 0; allowed: above 0"),
        ("teacher", "recipe.guard.attempts=-1", "recipe.teacher.fp32.guard.attempts = -1; allowed: 0 or more"),
        (
            "teacher",
            "recipe.guard.action=ignore",
            "recipe.teacher.fp32.guard.action = ignore; allowed: stop, rollback",
        ),
        ("teacher", "data.transform.size=0", "data.transform.size = 0; allowed: 1 or more"),
        (
            "teacher",
            "data.transform.interpolation=cubic",
            "data.transform.interpolation = cubic; allowed: nearest, bilinear, bicubic",
        ),
        ("teacher", "trainer.devices=1.5", "trainer.devices = 1.5; allowed: a whole number or a text or a list"),
        ("teacher", "teacher.weights=none", "teacher.weights = none; allowed: trained, pretrained"),
        # names nobody knows
        ("teacher", "+data.batch_sizes=8", "data.batch_sizes is not a setting; allowed: batch_size?"),
        ("teacher", "+data.transform.flips=true", "data.transform.flips is not a setting; allowed: flip?"),
        (
            "supernet",
            "+recipe.supernet.fp32.epoch=3",
            "recipe.supernet.fp32.epoch is not a setting; allowed: epochs?",
        ),
        ("teacher", "+stage.settings.label_smooth=1", "label_smooth is not a setting; allowed: label_smoothing?"),
        (
            "teacher",
            "data._target_=spaceevo.lit.nowhere.Data",
            "data._target_ = spaceevo.lit.nowhere.Data; allowed: the full name of a class or function that can be"
            " imported",
        ),
    ],
)
def test_a_wrong_setting_is_named(compose: Compose, job: str, override: str, told: str) -> None:
    assert fault(compose, job, override) == told


def test_faults_are_told_all_at_once(compose: Compose) -> None:
    wrong = ["max_epochs=0", "data.batch_size=x", "recipe.supernet.fp32.epochs=0", "+data.hold_out=3"]
    told = fault(compose, "supernet", *wrong).split(" | ")
    assert {text.split(" ")[0] for text in told} == {
        "max_epochs",
        "data.batch_size",
        "recipe.supernet.fp32.epochs",
        "data.hold_out",
    }
    assert len(told) == 4


def test_the_precision_decides_which_recipe_is_named(compose: Compose) -> None:
    told = fault(compose, "teacher", "quant=deploy", "recipe.teacher.int8.epochs=0")
    assert told == "recipe.teacher.int8.epochs = 0; allowed: 1 or more"
