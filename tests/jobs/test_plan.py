"""The plan says what would become of each step, and looks at what could keep a chain from running."""

import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from spaceevo.artifacts import StageResult
from spaceevo.artifacts.progress import JobProgress
from spaceevo.artifacts.work import Extent
from spaceevo.errors import ConfigError
from spaceevo.jobs import doctor
from spaceevo.jobs.costs import Cost
from spaceevo.jobs.doctor import examine
from spaceevo.jobs.expected import find_costs, known_costs
from spaceevo.jobs.plan import PlanJob
from spaceevo.jobs.runner import make_job, run
from spaceevo.jobs.steps import Outlook, Step, look_ahead
from spaceevo.jobs.steps import compose as composed_step
from spaceevo.jobs.trial import _end, _grown, _sizes, end_with_parent, shortened_words, tried_blocks, tried_words
from tests.jobs.conftest import TINY, Compose, RunJob, changed, defaults

COST = Cost(40.0, 20.0, 512.0, 1024.0, {"training steps": 30.0}, "2 training steps", {"training steps": 15.0})
TEACHER, SUPERNET = Step("teacher", "teacher", "off"), Step("supernet", "supernet", "off")


@pytest.fixture
def estimated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Costs without trials, and a cache of them of this test's own."""
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("spaceevo.jobs.expected.estimate", lambda *args: COST)
    monkeypatch.setattr("spaceevo.jobs.expected._fill_tables", lambda *args: None)


def looked(compose: Compose, images: Path, *overrides: str) -> list[Outlook]:
    given = [*TINY, f"data.root={images}", *overrides]
    return look_ahead([TEACHER, SUPERNET], [compose(f"+stage={it.stage}", *given) for it in (TEACHER, SUPERNET)])


def told(outlooks: list[Outlook]) -> list[tuple[str, str]]:
    return [(one.verdict, one.why.split(";")[0]) for one in outlooks]


def trial(answer: Connection) -> None:
    """Begin as a trial does, with a loader, which holds the other end of the connection as long as it lives."""
    end_with_parent()
    get_context("fork").Process(target=time.sleep, args=(60,)).start()
    answer.send(None)
    time.sleep(60)


def test_loaders_end_with_their_trial() -> None:
    forks = get_context("fork")
    ours, theirs = forks.Pipe(duplex=False)
    process = forks.Process(target=trial, args=(theirs,))
    process.start()
    theirs.close()
    ours.recv()
    _end(process)
    assert ours.poll(5)  # nobody has the other end any more
    with pytest.raises(EOFError):
        ours.recv()


def test_a_trial_ends_with_the_plan_that_was_killed() -> None:
    forks = get_context("fork")
    ours, theirs = forks.Pipe(duplex=False)

    def plan() -> None:
        forks.Process(target=trial, args=(theirs,)).start()
        time.sleep(60)

    process = forks.Process(target=plan)
    process.start()
    theirs.close()
    ours.recv()
    process.kill()
    process.join()
    assert ours.poll(5)  # nobody has the other end any more
    with pytest.raises(EOFError):
        ours.recv()


def test_steps_run_are_skipped_or_fail(tiny: RunJob, compose: Compose, images: Path) -> None:
    space = "space=digits-222-000"
    assert told(looked(compose, images, space)) == [("run", "it has not ended here yet")] * 2
    tiny("teacher", space)
    tiny("supernet", space)
    assert told(looked(compose, images, space)) == [("be skipped", "nothing changed")] * 2
    changed = looked(compose, images, space, "seed=7")
    assert [one.verdict for one in changed] == ["run", "run"]
    assert "seed" in changed[0].why
    assert changed[0].took is not None
    later = looked(compose, images, space, "recipe.teacher.fp32.optimizer.lr=0.5")
    assert told(later)[1] == ("be skipped", "unless an earlier step changes what it reads")
    lost = looked(compose, images / "nowhere", space)
    assert [one.verdict for one in lost] == ["fail", "fail"]
    assert "nowhere" in lost[0].why


def test_what_reads_what_is_made_anew_runs(tiny: RunJob, compose: Compose, images: Path) -> None:
    space, both = "space=digits-222-000", [Step(quant, "supernet", quant) for quant in ("off", "deploy")]
    for step in both:
        tiny("supernet", space, f"quant={step.quant}")

    def outlooks(*overrides: str) -> list[tuple[str, str]]:
        given = [*TINY, f"data.root={images}", space, *overrides]
        return told(look_ahead(both, [compose(f"+stage={it.stage}", f"quant={it.quant}", *given) for it in both]))

    assert outlooks() == [("be skipped", "nothing changed")] * 2
    (_, since), (would, why) = outlooks("recipe.supernet.fp32.optimizer.lr=0.5")
    assert "lr" in since
    assert would == "run"
    assert why.startswith("an earlier step makes ") and why.endswith("checkpoint.pth anew")


def test_a_setting_that_is_wrong_fails_and_the_others_are_told(compose: Compose, images: Path) -> None:
    found = looked(compose, images, "space=digits-222-000", "recipe.teacher.fp32.epochs=0")
    assert [one.verdict for one in found] == ["fail", "run"]
    assert "recipe.teacher.fp32.epochs" in found[0].why


def test_steps_that_never_ran_fail_where_their_images_are_not(compose: Compose, images: Path) -> None:
    found = looked(compose, images / "nowhere", "space=digits-222-000")
    assert [one.verdict for one in found] == ["fail", "fail"]
    assert all(f"data.root {images / 'nowhere'} is not a folder" in one.why for one in found)


def test_the_machine_is_looked_at(compose: Compose, images: Path, tmp_path: Path) -> None:
    job = make_job(compose("+stage=teacher", *TINY, f"data.root={images}"))
    StageResult("teacher", "f", 0, {}).save(tmp_path / "runs" / "teacher_fp32")
    found = {check.name: check for check in examine(tmp_path / "runs", {"teacher": job})}
    assert all(check.verdict == "ok" for check in found.values())
    assert found["images"].told.startswith("32 of ")
    assert found["artefacts"].told.startswith("1 results")
    broken = next((images / "val").rglob("*.png"))
    broken.write_bytes(b"no image")
    (tmp_path / "runs" / "teacher_fp32" / "result.json").write_text("{")
    found = {check.name: check for check in examine(tmp_path / "runs", {"teacher": job})}
    assert {name for name, check in found.items() if check.verdict != "ok"} == {"images", "artefacts"}
    assert broken.name in found["images"].told
    assert "result.json" in found["artefacts"].told


def test_a_processor_that_adds_in_16_bits_is_told_the_scheme_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = "quant=reduced_range"
    for exact in (True, False):
        monkeypatch.setattr(doctor, "adds_exactly", lambda weight, exact=exact: exact)
        found = {check.name: check.told for check in examine(tmp_path, {})}
        assert (hint in found["processor"]) == (not exact)


def test_images_of_a_job_that_cannot_be_made_are_not_known(tmp_path: Path) -> None:
    found = {check.name: check for check in examine(tmp_path, {"supernet": None})}["images"]
    assert (found.verdict, found.told) == (
        "unknown",
        "not looked at: supernet failed before it was known which are read",
    )


def test_the_job_plan_tells_of_all_steps_and_writes_none(tiny: RunJob, tmp_path: Path, estimated: None) -> None:
    result = tiny("plan")
    assert (result.figures["run"], result.figures["fail"], result.figures["wrong"]) == (11, 0, 0)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"plan"}
    assert "+stage=pipeline" in result.next_command
    *steps, total = result.figures["costs"]
    assert [row["seconds"] for row in steps] == [40.0] * 11
    assert (total["seconds"], total["processor_seconds"], total["memory_mb"]) == (440.0, 220.0, 512.0)


@pytest.mark.parametrize(("quant", "folder"), [("off", "teacher_fp32"), ("deploy", "teacher_int8")])
def test_one_job_is_planned_under_its_own_scheme(
    tiny: RunJob, tmp_path: Path, estimated: None, quant: str, folder: str
) -> None:
    StageResult("teacher", "f", 0, {}, seconds=5.5).save(tmp_path / "runs" / folder)
    result = tiny("plan", "of=teacher", f"quant={quant}")
    assert [step["took"] for step in result.figures["steps"]] == [5.5]


@pytest.mark.parametrize("words", [["+stage=pipeline"], ["+stage=plan"]])
def test_a_pipeline_takes_no_scheme(compose: Compose, words: list[str]) -> None:
    for scheme, told in (
        ("reduced_range", "set recipe.pipeline.quant=reduced_range"),
        ("published", "leave it out"),
    ):
        job = make_job(compose(*words, "superspace=digits", f"quant={scheme}"))
        with pytest.raises(ConfigError, match=rf"quant = {scheme}; each step of a pipeline has its own; {told}"):
            job.work()


def test_a_pipeline_that_cannot_end_does_not_begin(compose: Compose) -> None:
    steps = "{title: train, stage: teacher, quant: deploy}, {title: search, stage: space_search, quant: deploy}"
    words = ("superspace=digits", "platform=none", f"recipe.pipeline.steps=[{steps}]")
    job = make_job(compose("+stage=pipeline", *words))
    with pytest.raises(ConfigError, match=r"step .*: platform=none knows no latencies; limit something else"):
        job.work()


@pytest.mark.slow
def test_a_trial_leaves_costs_and_nothing_else(
    compose: Compose,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPACEEVO_CACHE", str(tmp_path / "cache"))
    kept = tmp_path / "runs/checkpoints/block_kd/teacher_checkpoint/resnet10/checkpoint.pth"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"as it was")
    words = [f"data.root={images}", "superspace=digits", "+stage=teacher", *TINY[1:2], *TINY[3:]]
    config = composed_step([*words, f"paths.root={tmp_path / 'runs'}", "max_epochs=5"])
    outlooks = look_ahead([TEACHER], [config])
    found = find_costs(outlooks, [config], [words], tmp_path / "runs" / "plan" / "trial")["teacher"]
    assert isinstance(found, Cost), found
    assert "trying teacher, 1 of 1\n" in capsys.readouterr().out
    assert found.memory_mb > 100 and found.disk_mb > 1
    assert {*found.seconds_by_kind} == {"training steps", "evaluations", "saved states"}
    assert 0 < sum(found.seconds_by_kind.values()) < found.seconds
    job = outlooks[0].job
    assert job is not None
    by_kind = {kind: amount.times * found.each[kind] for kind, amount in job.amounts().items()}
    assert found.seconds_by_kind == pytest.approx(by_kind)
    assert kept.read_bytes() == b"as it was"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"checkpoints", "plan"}
    assert not any((tmp_path / "runs" / "plan").iterdir())
    assert known_costs(outlooks) == {"teacher": found}
    for image in (images / "train").rglob("*.png"):
        image.write_bytes(b"no image")
    told = find_costs(look_ahead([TEACHER], [config]), [config], [words], tmp_path / "trial")["teacher"]
    assert isinstance(told, str) and str(images / "train") in told


def test_the_disk_that_a_trial_takes_is_what_is_new_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "cache" / "latency").mkdir(parents=True)
    (tmp_path / "checkpoints").mkdir()
    lent, written = tmp_path / "checkpoints" / "a.pth", tmp_path / "checkpoints" / "b.pth"
    lent.write_bytes(b"lent")
    known = _sizes(tmp_path)
    (tmp_path / "cache" / "latency" / "table.json").write_bytes(b"not its own")
    assert _grown(tmp_path, known) == 0
    written.write_bytes(b"new, and more")
    assert _grown(tmp_path, known) == 13
    written.replace(lent)
    assert _grown(tmp_path, known) == 13


def test_of_many_blocks_a_few_of_all_stages_and_types_are_tried() -> None:
    chosen, as_many = tried_blocks(make_job(defaults("block_kd", "mobilew")))
    assert as_many == 42 / len(chosen) == 42 / 9
    assert {name.split("_")[0] for name in chosen} == {f"stage{number}" for number in range(1, 7)}
    assert {name.split("_")[1] for name in chosen} == {str(number) for number in range(7)}
    assert tried_words(["a=1", "logger=wandb", "paths.lut=x"], chosen) == ["a=1", f"block=[{','.join(chosen)}]"]
    assert tried_blocks(make_job(defaults("block_kd"))) == ([], 1.0)


@pytest.mark.parametrize(
    ("job", "told"),
    [
        ("teacher", {"max_epochs": 1, "trainer.limit_train_batches": 4, "recipe.teacher.fp32.optimizer.lr": 1e-9}),
        ("block_kd", {"recipe.block_kd.fp32.optimizer.lr": 1e-9, "teacher.weights": "random"}),
        ("block_lut", {"recipe.block_lut.samples": 3, "teacher.weights": "random"}),
        ("space_search", {"recipe.space_search.local.total": 60, "recipe.space_search.ageing.population": 60}),
        ("supernet", {"recipe.supernet.fp32.optimizer.lr": 1e-9}),
        ("subnet_search", {"recipe.subnet_search.front.population": 8, "recipe.subnet_search.front.generations": 1}),
        ("export", {"recipe.export.min_agreement": 0}),
        ("finetune", {"recipe.finetune.int8.optimizer.lr": 1e-9}),
        ("benchmark", {}),
    ],
)
def test_a_job_says_what_makes_it_small_as_a_user_would_set_it(job: str, told: dict[str, object]) -> None:
    config = defaults(job)
    words = dict(word.lstrip("+").split("=") for word in shortened_words(make_job(config), config, Extent(2, 3)))
    assert {name: str(value) for name, value in told.items()}.items() <= words.items()
    unknown = [name for name in words if OmegaConf.select(config, name, default=config) is config]
    assert unknown == []
    images = {name: value for name, value in words.items() if name.startswith("data.")}
    few = {"data.batch_size": "2", "data.test_images": "2", "data.calibration_batch_size": "2"}
    assert images == ({} if "data" not in config.stage.settings else {**few, "data.calibration_batches": "1"})


def test_blocks_with_rates_of_their_own_are_left_as_they_are() -> None:
    with changed("block_kd", "recipe.lr_by_stage.fp32={stage1: 0.005}") as config:
        words = [*shortened_words(make_job(config), config, Extent(2))]
    assert "++recipe.lr_by_stage.fp32.stage1=1e-09" in words


def test_an_experiment_says_which_job_is_planned(
    compose: Compose, images: Path, estimated: None, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("superspace=digits", "data=digits", "teacher=resnet10", "recipe=digits", f"data.root={images}")
    words = ("+stage=plan", "experiment=mobilew/block_kd", *small, "data.holdout=4", "data.batch_size=8")
    job = make_job(compose(*words))
    assert isinstance(job, PlanJob)
    found = job.work()
    assert [(row["step"], row["verdict"]) for row in found.figures["steps"]] == [("block_kd", "fail")]
    assert found.next_command == ""
    assert "Next: mend why block_kd would fail, told above" in capsys.readouterr().out
    assert job.workspace.commands.composing[:2] == ("quant=off", "data.transform.auto_augment=false")
    with pytest.raises(ConfigError, match=r"of = teacher, and the experiment selects block_kd; leave one of them out"):
        make_job(compose(*words, "of=teacher"))


def test_an_experiment_of_a_pipeline_is_planned_with_its_steps_and_recipe(compose: Compose) -> None:
    job = make_job(compose("+stage=plan", "experiment=fashion_mnist_space", "space=small-3333-1111"))
    assert isinstance(job, PlanJob)
    steps, words = job._steps(())
    assert [step.stage for step in steps] == ["supernet", "supernet", "subnet_search", "export", "benchmark"]
    config = composed_step(words[0])
    assert (config.superspace.name, config.recipe.supernet.fp32.epochs, config.data.train_images) == ("small", 6, 4000)
    assert config.stage.name == "supernet"
    pipeline = make_job(compose("experiment=fashion_mnist_space", "space=small-3333-1111"))
    assert pipeline.workspace.commands.composing == job.workspace.commands.composing


def test_a_pipeline_says_what_is_known_of_its_costs(
    compose: Compose, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "superspace=digits",
        "space=digits-222-000",
        "recipe.pipeline.steps=[{title: c, stage: cost, quant: 'off'}]",
    ]
    config = compose("+stage=pipeline", *words)
    run(config)
    assert "What it will cost is not known; the same words with +stage=plan tell it" in capsys.readouterr().out
    monkeypatch.setattr("spaceevo.jobs.pipeline.known_costs", lambda outlooks: {one.title: COST for one in outlooks})
    run(compose("+stage=pipeline", *words, "force=true"))
    told = capsys.readouterr().out
    assert "40 s" in told and "512 MB" in told and "2 training steps" in told
    step = next(iter(Path(config.paths.root).glob("cost*/progress.json")))
    assert JobProgress.read(step).foreseen == {"training steps": 15.0}
