"""A wrong setting is told in one line: the name a user sets, its value, what is allowed."""

from __future__ import annotations

import pytest
from omegaconf import open_dict

from spaceevo.errors import ConfigError
from spaceevo.jobs.runner import make_job
from spaceevo.space.description import conf_files
from tests.jobs.conftest import Compose, changed


def fault(job: str, *overrides: str) -> str:
    """What reading the settings says; no image or file is looked at."""
    with changed(job, *overrides) as config, pytest.raises(ConfigError) as caught:
        make_job(config)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


@pytest.mark.parametrize(
    ("job", "override", "told"),
    [
        # of the job itself
        ("cost", "force=maybe", "force = maybe; allowed: true, false"),
        ("cost", "force=0", "force = 0; allowed: true, false"),
        ("teacher", "max_epochs=0", "max_epochs = 0; allowed: 1 or more"),
        ("teacher", "max_epochs=1.5", "max_epochs = 1.5; allowed: a whole number, 1 or more"),
        ("cost", "seed=-1", "seed = -1; allowed: a whole number, 0 or more"),
        ("cost", "seed=1e400", "seed = inf; allowed: a whole number, 0 or more"),
        ("teacher", "seed=-1", "seed = -1; allowed: 0 or more"),
        ("teacher", "seed=one", "seed = one; allowed: a whole number, 0 or more"),
        ("supernet", "recipe.threads=0", "recipe.threads = 0; allowed: 1 or more"),
        ("supernet", "recipe.dropout=1", "recipe.dropout = 1; allowed: below 1"),
        ("supernet", "recipe.label_smoothing=-0.1", "recipe.label_smoothing = -0.1; allowed: 0 or more"),
        ("supernet", "space=3", "space = 3; allowed: a text (quote one that looks like a number)"),
        ("block_kd", "block=3", "block = 3; allowed: a text (quote one that looks like a number) or a list"),
        ("block_kd", "block=[stage1,3]", "block.1 = 3; allowed: a text (quote one that looks like a number)"),
        ("finetune", "recipe.finetune.freeze_body=7", "recipe.finetune.freeze_body = 7; allowed: true, false"),
        (
            "block_kd",
            "recipe.nsr_variance_of=students",
            "recipe.nsr_variance_of = students; allowed: teacher, published",
        ),
        ("space_search", "limit=5mmacs", "limit = 5mmacs; allowed: a mapping, of mmacs, mparams, file_kb, peak_ram_kb"),
        ("block_kd", "+recipe.lr_by_stage.fp32.stage1=0", "recipe.lr_by_stage.fp32.stage1 = 0; allowed: above 0"),
        # of components
        ("block_kd", "data.batch_size=x", "data.batch_size = x; allowed: a whole number, 1 or more"),
        ("block_kd", "data.batch_size=0", "data.batch_size = 0; allowed: 1 or more"),
        ("block_kd", "recipe.block_kd.fp32.epochs=0", "recipe.block_kd.fp32.epochs = 0; allowed: 1 or more"),
        (
            "supernet",
            "recipe.supernet.fp32.schedule=square",
            "recipe.supernet.fp32.schedule = square; allowed: cosine, linear",
        ),
        ("supernet", "recipe.supernet.fp32.ema_decay=1", "recipe.supernet.fp32.ema_decay = 1; allowed: below 1"),
        ("supernet", "recipe.supernet.fp32.clip_norm=0", "recipe.supernet.fp32.clip_norm = 0; allowed: above 0"),
        ("teacher", "recipe.guard.attempts=-1", "recipe.guard.attempts = -1; allowed: 0 or more"),
        (
            "teacher",
            "recipe.guard.action=ignore",
            "recipe.guard.action = ignore; allowed: stop, rollback",
        ),
        ("teacher", "data.transform.size=0", "data.transform.size = 0; allowed: 1 or more"),
        (
            "teacher",
            "data.transform.interpolation=cubic",
            "data.transform.interpolation = cubic; allowed: nearest, bilinear, bicubic",
        ),
        (
            "teacher",
            "trainer.devices=1.5",
            "trainer.devices = 1.5; allowed: a whole number or a text (quote one that looks like a number) or a list",
        ),
        ("teacher", "teacher.weights=none", "teacher.weights = none; allowed: trained, pretrained, random"),
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
def test_a_wrong_setting_is_named(job: str, override: str, told: str) -> None:
    assert fault(job, override) == told


def test_a_job_that_cannot_be_imported_says_why() -> None:
    told = fault("cost", "stage.job=spaceevo.stages.nowhere.Job")
    assert told.startswith("stage.job = spaceevo.stages.nowhere.Job (")
    assert "nowhere" in told.partition("(")[2]
    assert told.endswith("; allowed: the full name of a class of jobs; take +stage=<job>")


@pytest.mark.parametrize("override", ["momentum=0", "+foreach=maybe", "+dampening=0.5"])
def test_what_an_optimiser_refuses_is_told_before_training(override: str) -> None:
    plus = "+" if override[0] == "+" else ""
    told = fault("supernet", f"{plus}recipe.supernet.fp32.optimizer.{override.lstrip('+')}")
    assert "optimizer" in told


def test_faults_are_told_all_at_once() -> None:
    wrong = ["max_epochs=0", "data.batch_size=x", "recipe.supernet.fp32.epochs=0", "+data.hold_out=3"]
    told = fault("supernet", *wrong).split(" | ")
    assert {text.split(" ")[0] for text in told} == {
        "max_epochs",
        "data.batch_size",
        "recipe.supernet.fp32.epochs",
        "data.hold_out",
    }
    assert len(told) == 4


def test_an_argument_that_is_taken_out_is_missed() -> None:
    with changed("supernet", "data.holdout=3", "recipe.threads=1") as config:
        with open_dict(config):
            del config.data["root"]
            del config.recipe.supernet.fp32["epochs"]
        with pytest.raises(ConfigError) as caught:
            make_job(config)
    faults = str(caught.value).split(" | ")
    assert sorted(faults) == ["data.root is missing; set it", "recipe.supernet.fp32.epochs is missing; set it"]


def test_the_precision_decides_which_recipe_is_named() -> None:
    told = fault("teacher", "quant.name=deploy", "quant.precision=int8", "recipe.teacher.int8.epochs=0")
    assert told == "recipe.teacher.int8.epochs = 0; allowed: 1 or more"


BAD = {
    "teacher": [
        "seed=abc seed=1.5 seed=-1 seed=true seed=null seed=.nan seed=1e3 seed=9223372036854775808 seed=[1]",
        f"max_epochs=0 max_epochs=-3 max_epochs=true max_epochs=ten max_epochs=10000000000 max_epochs={'9' * 4000}",
        "quant.name=on quant.name=null quant.name=8",
        "recipe.threads=-1 recipe.threads=0 recipe.threads=all recipe.threads=1.5",
        "recipe.label_smoothing=5 recipe.label_smoothing=-1 recipe.label_smoothing=nan recipe.label_smoothing=some",
        "recipe.teacher.fp32.epochs=0 recipe.teacher.fp32.epochs=two recipe.teacher.fp32.warmup_epochs=-1",
        "recipe.teacher.fp32.schedule=cosin recipe.teacher.fp32.clip_value=-1 recipe.teacher.fp32.clip_norm=inf",
        "recipe.teacher.fp32.decay_all=yess recipe.teacher.fp32.lr_batch_size=0 recipe.teacher.fp32.schedule_every=0",
        "recipe.teacher.fp32.ema_decay=1.5 recipe.teacher.fp32.optimizer=sgd recipe.teacher.fp32=5",
        "recipe.teacher.fp32.optimizer.lr=-1 recipe.teacher.fp32.optimizer.lr=0 recipe.teacher.fp32.optimizer.lr=nan",
        "recipe.teacher.fp32.optimizer.lr=inf recipe.teacher.fp32.optimizer.lr=fast",
        "recipe.teacher.fp32.optimizer.momentum=1 recipe.teacher.fp32.optimizer.weight_decay=-1",
        "recipe.teacher.fp32.optimizer._partial_=2 recipe.teacher.fp32.optimizer._target_=torch.optim.SDG",
        "recipe.guard=5 recipe.guard.action=go recipe.guard.explodes_at=1 recipe.guard.rate_factor=2",
        "trainer.limit_train_batches=0 trainer.limit_train_batches=-1 trainer.limit_train_batches=1.5",
        "trainer.accelerator=gpus trainer.devices=all trainer.precision=int4 trainer.deterministic=maybe",
        "trainer.log_every_n_steps=-1 +trainer.num_nodes=0 trainer.use_distributed_sampler=1",
        "teacher.weights=pretrianed teacher.name=../x teacher.model=5 teacher.model.layers=[100000]",
        "teacher.taps.stage1=5 teacher.taps=5 logger=5 logger._target_=tensorboard logger.name=5",
        "logger._target_=builtins.dict",
        "data._target_=builtins.dict data._target_=spaceevo.lit.module.Recipe",
        "recipe.teacher.fp32._target_=builtins.dict",
        "data.batch_size=0 data.batch_size=1.5 data.eval_batch_size=-1 data.num_workers=-1 data.num_workers=100000",
        "data.prefetch_factor=0 data.holdout=0 data.holdout=1.5 data.holdout=-0.5 data.holdout=some data.holdout=nan",
        "data.split_seed=-1 data.calibration_batches=0 data.calibration_batch_size=x data.cache_mib=-1 data.root=5",
        "data.decoded_cache_gib=inf data.transform=5 data.transform.size=0 data.transform.size=100000",
        "data.transform.mean=[2,0,0] data.transform.std=[0,1,1] data.transform.flip=2",
        "data.transform.crop_scale=[0.5] data.transform.crop_ratio=[-1,1] data.transform.interpolation=cubic",
    ],
    "block_kd": ["block=[] recipe.nsr_variance_of=techer recipe.blocks_together=0 recipe.lr_by_stage.fp32.stage1=-1"],
    "plan": ["recipe.budget_hours=-1 recipe.budget_hours=nan recipe.budget_hours=two"],
    "pipeline": ["recipe.pipeline.steps=[] recipe.pipeline.steps=5 recipe.pipeline.steps=[{quant:foo}]"],
    "supernet": ["recipe.dropout=1 recipe.dropout=-0.1 recipe.dropout=nan space=5 space=[a,b]"],
    "finetune": ["recipe.finetune.freeze_body=2 subnet=[a,b] checkpoint=5"],
    "block_lut": [
        "recipe.block_lut.samples=0 recipe.block_lut.calibration_batches=0 recipe.block_lut.evaluation_batches=-1",
        "recipe.block_lut.evaluation_batch_size=0 recipe.block_lut.cache_mib=-1 recipe.block_lut.cache_mib=inf",
        "recipe.block_lut.variance_of=foo window=-1 window=one window=[] block=[] window=[0,x]",
        "platform.name=a/b platform.runtime=[]",
        "platform.fixed_latency_ms=-1 platform.fixed_latency_ms=nan platform.fixed_latency_ms={160:x}",
        "platform.unknown_blocks=mesure platform=5",
    ],
    "space_search": [
        "latency_constraint=fast latency_constraint=0 latency_constraint=[5,-1] latency_constraint=nan",
        "latency_constraint=[] latency_constraint={} latency_constraint={ort_cpu:0} latency_constraint=null",
        "recipe.space_search.method=locl recipe.space_search.local.total=0 recipe.space_search.ageing.sample=0",
        "recipe.space_search.prove=2 recipe.space_search.samples=0 recipe.space_search.t=0 recipe.space_search.t=nan",
        "recipe.space_search.t=2 recipe.space_search.a=-1 recipe.space_search.sensitivity.t=[0.1,-1]",
        "limit=5 limit.mmacs=0 limit.mmacs=nan limit.mmacs=5mmacs limit.mparams=[] limit.file_kb=[5,-1]",
    ],
    "subnet_search": [
        "recipe.subnet_search.method=fornt recipe.subnet_search.stop_z=nan recipe.subnet_search.stop_z=0",
        "recipe.subnet_search.tested=-1 recipe.subnet_search.delta_ms=-5 recipe.subnet_search.front.population=0",
        "recipe.subnet_search.front.screened=x recipe.subnet_search.evolution.mutants=0 weights=pretrained",
        "platforms=5 platforms={desk:5}",
    ],
    "evaluate": ["recipe.evaluate.folded=2 weights=randm"],
    "export": [
        "format=5 format=[5] recipe.export.packed_channels=0 recipe.export.preprocessing=insde",
        "recipe.export.min_agreement=101 recipe.export.max_mean_difference=-1 recipe.export.calibration_images=0",
        "recipe.export.allow_float=2 recipe.export.repeats=0",
    ],
    "status": ["watch=0 watch=soon"],
    "models": ["models=5 recipe.models.repeats=0 recipe.models.images=0 recipe.models.max_mean_difference=-1"],
    "benchmark": ["recipe.benchmark.repeats=0"],
    "profile": ["recipe.profile.cpu_seconds=abc recipe.profile.cpu_seconds=-1 recipe.profile.passes=0"],
    "fit_latency": ["recipe.fit_latency.held_out=0 recipe.fit_latency.held_out=1 source=5"],
    "predict_latency": ["recipe.predict_latency.random_subnets=-1"],
    "cost": [
        "superspace.input_channels=0 superspace.input_channels=three superspace.input_channels=1.5",
        "superspace.stages.stage1.widths=[100000000] superspace.stages.stage1.depths=[10000000]",
        "superspace.stages.stage1.window=true",
        "superspace.stages.stage1.stride=3 superspace.resolutions.block=[0] superspace.resolutions.supernet=[a]",
        "superspace.candidates.0.kernels=[4] superspace.candidates.0.expands=[inf] superspace.candidates.0.act=rleu",
        "superspace.name=a/b superspace.stages.stage1.depths=[2,1] superspace.stages=5 force=1 subnet=5 subnet=[1]",
    ],
}
CASES = [(job, override) for job, lines in BAD.items() for line in lines for override in line.split()]


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 4))])
def test_no_wrong_value_is_taken(part: int) -> None:
    assert len(CASES) > 150
    for job, override in CASES[part::4]:
        name, _, value = override.partition("=")
        told = fault(job, override)
        assert name.lstrip("+").split(".")[-1] in told, (override, told)
        assert "; allowed: " in told or " is missing" in told, (override, told)
        if value != "1e3" and value[0] not in "[{":  # of lists and mappings the wrong entry is told
            assert value[:20].strip("!").lower() in told.lower(), (override, told)


@pytest.mark.parametrize("logger", conf_files("logger"))
def test_every_logger_may_take_what_is_trained(compose: Compose, logger: str) -> None:
    make_job(compose("+stage=supernet", "superspace=digits", "space=digits-012-000", f"logger={logger}"))
