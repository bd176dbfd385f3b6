"""Words of a command line: as people type them, and as Hydra needs them; what cannot be made of them, in one line."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException

from spaceevo.errors import ConfigError
from spaceevo.jobs.mistyped import explained
from spaceevo.jobs.runner import make_job
from spaceevo.jobs.words import Options, groups, hydras_words, options, retold
from spaceevo.space.description import conf_folder
from tests.jobs.conftest import Compose

TEXT = "d1#2_k3#3#5_w16#24#24_e0#3.0#6.0_r160"

MEANT = "recipe.pipeline.quant = reduced; did you mean reduced_range? allowed: deploy, reduced_range"


@pytest.mark.parametrize(
    ("typed", "passed_on"),
    [
        (f"subnet={TEXT}", f"subnet='{TEXT}'"),
        (f"subnet=[{TEXT},max, d1_k3_w8_e0_r32]", f"subnet=['{TEXT}',max, 'd1_k3_w8_e0_r32']"),
        (f"subnet={TEXT},{TEXT}", f"subnet='{TEXT}','{TEXT}'"),
        (f"subnet='{TEXT}'", f"subnet='{TEXT}'"),
        (f'subnet=["{TEXT}"]', f'subnet=["{TEXT}"]'),
        ("subnet=[SEQnet@vnni-A0,min]", "subnet=[SEQnet@vnni-A0,min]"),
        ("space=digits-012-010", "space=digits-012-010"),
        ("space=111111_000000", "space='111111_000000'"),
        ("space=[111111_000000,mobilew-122222-155400]", "space=['111111_000000',mobilew-122222-155400]"),
        ("space=012_010,000_000", "space='012_010','000_000'"),
        ("space='012_010'", "space='012_010'"),
        ("space=digits-012_010-align1", "space=digits-012_010-align1"),
        ("space=122222", "space='122222'"),
        ("+space=012_010", "+space='012_010'"),
        ("subnet=1#2", "subnet='1#2'"),
        ("subnet=[d1#2,max]", "subnet=['d1#2',max]"),
        ("recipe.lr_by_stage.fp32.stage1=0.01", "++recipe.lr_by_stage.fp32.stage1=0.01"),
        ("+recipe.lr_by_stage.fp32.stage1=0.01", "+recipe.lr_by_stage.fp32.stage1=0.01"),
        ("logger=null", "~logger"),
        ("model=null", "model=null"),
        ("+stage=cost", "+stage=cost"),
        ("stage=cost", "+stage=cost"),
    ],
)
def test_encodings_may_be_typed_as_they_are_printed(typed: str, passed_on: str) -> None:
    assert hydras_words([typed]) == [passed_on]


def test_groups_are_those_that_the_configuration_has() -> None:
    assert groups().keys() == {folder.name for folder in conf_folder().iterdir() if folder.is_dir()} - {"stage"}
    assert {group for group, default in groups().items() if default is None} == {
        *("model", "experiment", "debug", "logger")
    }


def fault(*words: str) -> str:
    """What is said of words of which no configuration can be made, or none that a job takes."""
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
            given = options(hydras_words(words))
            first = [word.partition(",")[0] if given.sweeps else word for word in given.overrides]
            config = hydra.compose("config", first, return_hydra_config=True)
            config.paths.output = "runs"
            make_job(config)
    except ConfigError as error:
        return str(error)
    except HydraException as error:
        return explained(error, options(hydras_words(words)))
    pytest.fail(f"{words} are understood")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("+stage=supernat", "stage = supernat; did you mean supernet? allowed: benchmark, block_kd, "),
        ("+stage=teacher quant=deplo", "quant = deplo; did you mean deploy? allowed: deploy, off, published"),
        ("+stage=teacher data=nope", "data = nope; allowed: cifar10, cifar100, digits, "),
        ("+stage=teacher platform=", "platform = ; allowed: adb, nn_meter, "),
        ("+stage=teacher +platform@platforms.desk=ort", "platform@platforms.desk = ort; did you mean ort_cpu? allowed"),
        ("+stage=teacher superspace=digit", "superspace = digit; did you mean digits? allowed: digits, digits_wide"),
        ("experiment=mobilew/supernett", "experiment = mobilew/supernett; did you mean mobilew/supernet? allowed: "),
        ("model=SEQnet@vnni-A9", "model = SEQnet@vnni-A9; did you mean SEQnet@vnni-A"),
        ("hydra/launcher=basik", "hydra/launcher = basik; did you mean basic? allowed: basic"),
        ("+stage=null", "+stage = null; allowed: benchmark, "),
        ("+stage=cost experiment=1", "experiment = 1; allowed: digits, "),
        *(
            (f"{job} recipe.pipeline.quant=reduced", MEANT)
            for job in ("+stage=pipeline", "+stage=plan", "+stage=supernet")
        ),
        ("+stage=plan recipe.pipeline.quant=null", "recipe.pipeline.quant = null; allowed: deploy, reduced_range"),
        ("+stage=teacher logger=[wandb,csv]", "logger = [wandb,csv]; allowed: one of csv, mlflow, tensorboard, wandb"),
        ("+stage=teacher data=[digits,cifar10]", "data = [digits,cifar10]; allowed: one of cifar10, cifar100, digits"),
        ("~superspace", "~superspace; allowed: digits, "),
        ("=3", "=3 sets nothing; write key=value"),
        ("paths.root=r\udcff", "'paths.root=r\\udcff' is not UTF-8; rename what it names, or give a link to it"),
        ("supernet", "supernet is no setting; did you mean +stage=supernet?"),
        ("superspace", "superspace has no value; write superspace=value"),
        ("paths.root=q<b>x", "paths.root = q<b>x cannot be read; lists are [a,b], mappings {a: b}; a text with more "),
        ("+stage=teacher recipe.budget_hours=1", "recipe.budget_hours = 1; only a pipeline has a budget, and teacher"),
        ("+stage=plan of=teacher recipe.budget_hours=1", "recipe.budget_hours = 1; only a pipeline has a budget, "),
        ("+stage=pipeline recipe.budget_hours=.inf", "recipe.budget_hours = .inf; allowed: a finite number above 0"),
        ("+stage=teacher seed=x", "seed = x; allowed: a whole number, 0 or more"),
        ("format=[onnx", "format = [onnx cannot be read; lists are [a,b], "),
        ("+stage=subnet_search superspace=digits platform=ssh", "platform.host = not set; allowed: a name of letters"),
        ("seed=1,2", "seed = 1,2; allowed: one value; a list is seed=[1,2]; to run each, put -m before the words"),
        (
            "+stage=space_search limit=[5]",
            "limit = [5]; allowed: settings of that group, one by one, as limit.<name>=value",
        ),
        ("+stage=teacher +platform@platforms.desk=null", "+platform@platforms.desk = null; allowed: adb, nn_meter"),
        ("+stage=transfer platform@source=ort", "platform@source = ort; did you mean ort_cpu? allowed"),
        ("+stage=transfer +platform@source=ort_cpu", "platform@source is chosen already; write it once, and without +"),
        ("+stage=cost +stage=teacher", "stage is chosen more than once; leave one of them"),
        ("recipe.supernet.fp32.epoch=3", "recipe.supernet.fp32.epoch is not a setting; did you mean recipe.supernet.f"),
        ("+stage=teacher lr=inf", "lr is not a setting; did you mean recipe.teacher.fp32.optimizer.lr or recipe.teach"),
        ("epochs=3", "epochs is not a setting; did you mean max_epochs or recipe."),
        ("superspace.stages.stage9.window=1", "superspace.stages.stage9 is not a setting; did you mean superspace.st"),
        ("platfrom=vnni", "platfrom is not a setting; did you mean platform?"),
        ("+seed=1", "+seed: seed is a setting already; write seed=… without +"),
        ("~seedd", "~seedd: there is no setting seedd; leave it out"),
        ("+stage=cost +max_epoch=3", "max_epoch is not a setting; did you mean max_epochs?"),
        ("+stage=cost ++recipe.supernt=3", "recipe.supernt is not a setting; did you mean recipe.supernet?"),
        ("+stage=cost +xyz=3", "xyz is not a setting; nothing would read it; leave it out"),
        (
            "experiment=mobilew/supernet +stage=cost",
            "experiment = mobilew/supernet selects +stage=supernet, and not co",
        ),
    ],
)
def test_wrong_words_are_told_in_one_line_with_the_nearest(words: str, told: str) -> None:
    line = fault(*words.split())
    assert line.startswith(told)
    assert "\n" not in line
    assert len(line) < 500
    assert "search path" not in line.lower()


def test_a_plan_of_what_is_no_job_names_the_setting(compose: Compose) -> None:
    job = make_job(compose("+stage=plan", "of=suprenet", "superspace=digits"))
    with pytest.raises(MissingConfigException) as caught:
        job.work()
    GlobalHydra.instance().clear()
    told = explained(caught.value, options(["+stage=plan", "of=suprenet", "superspace=digits"]))
    assert told.startswith("of = suprenet; did you mean supernet? allowed: benchmark, ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "+stage=supernat quant=deplo seed=1 epochs=3 +xyz=1 superspace=[digits ++recipe.supernt=3",
            [
                "superspace = [digits cannot be read; ",
                "stage = supernat; did you mean supernet?",
                "quant = deplo; did you mean deploy?",
                "epochs is not a setting; did you mean max_",
                "xyz is not a setting; nothing would read it",
                "recipe.supernt is not a setting; did you mean recipe.supernet?",
            ],
        ),
        (
            "-m +stage=teacher seed=1,2 quant=deploy,off lrr=1 data=nope",
            ["lrr is not a setting; ", "data = nope; allowed: "],
        ),
        ("platform=3 =5 +stage=null", ["platform = 3; allowed: ", "=5 sets nothing; ", "+stage = null; allowed: "]),
    ],
)
def test_all_wrong_names_are_told_in_one_line(words: str, told: list[str]) -> None:
    line = fault(*words.split())
    faults = line.split(" | ")
    assert len(faults) == len(told)
    for start in told:
        assert [each for each in faults if each.startswith(start)], (start, line)


def test_what_another_job_reads_may_be_added(compose: Compose, tmp_path: Path) -> None:
    """A sweep over jobs gives all of them what one of them takes."""
    added = ["++recipe.block_lut.samples=4", "+recipe.lr_by_stage.fp32.stage2=0.1", "++weights=random"]
    added += ["+platform@platforms.desk=ort_cpu", "+trainer.num_nodes=1", "+data.transform.flips=true"]
    assert make_job(compose("+stage=cost", "superspace=digits", "space=digits-012-010", *added)).name == "cost"


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ("+stage=a data.root=x quant=off", "+stage=b data.root=x quant=deploy"),
        ("+stage=a data.root=y quant=off", "+stage=b data.root=y quant=deploy"),
        ("+stage=a quant=off", "+stage=b quant=deploy"),
        ("+stage=a data.root=x quant=off recipe.threads=1", "+stage=b data.root=x quant=deploy recipe.threads=1"),
    ],
)
def test_a_recorded_command_follows_what_is_set_otherwise_now(now: str, told: str) -> None:
    before, following = "+stage=a data.root=x quant=off", "+stage=b data.root=x quant=deploy"
    assert retold(following, before, now) == told
    assert retold(following, "", now) == following


def test_switches_may_stand_among_the_words() -> None:
    assert hydras_words(["+stage=cost", "--help", "space=012_010"]) == ["--help", "+stage=cost", "space='012_010'"]
    assert options(hydras_words(["+stage=cost", "--help", "seed=1"])) == Options(["+stage=cost", "seed=1"], True, None)


@pytest.mark.parametrize(
    ("group", "option", "extra"),
    [("launcher", "joblib", "joblib"), ("launcher", "submitit_slurm", "slurm"), ("sweeper", "optuna", "optuna")],
)
def test_an_option_that_an_extra_brings_names_it(group: str, option: str, extra: str) -> None:
    missing = MissingConfigException("", f"hydra/{group}/{option}", ["basic"])  # as where the package is not installed
    told = explained(missing, options([f"hydra/{group}={option}"]))
    assert told == f"hydra/{group} = {option} comes with a package; install it with: pip install 'spaceevo[{extra}]'"
