"""The plan says what would become of each step, and looks at what could keep a chain from running."""

from pathlib import Path

import pytest

from spaceevo.artifacts import StageResult
from spaceevo.errors import ConfigError
from spaceevo.jobs.doctor import examine
from spaceevo.jobs.runner import make_job
from spaceevo.jobs.steps import Outlook, Step, look_ahead
from tests.jobs.conftest import TINY, Compose, RunJob

TEACHER, SUPERNET = Step("teacher", "teacher", "off"), Step("supernet", "supernet", "off")


def looked(compose: Compose, images: Path, *overrides: str) -> list[Outlook]:
    given = [*TINY, f"data.root={images}", *overrides]
    return look_ahead([TEACHER, SUPERNET], [compose(f"+stage={it.stage}", *given) for it in (TEACHER, SUPERNET)])


def told(outlooks: list[Outlook]) -> list[tuple[str, str]]:
    return [(one.verdict, one.why.split(";")[0]) for one in outlooks]


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


def test_a_setting_that_is_wrong_fails_and_the_others_are_told(compose: Compose, images: Path) -> None:
    found = looked(compose, images, "space=digits-222-000", "recipe.teacher.fp32.epochs=0")
    assert [one.verdict for one in found] == ["fail", "run"]
    assert "recipe.teacher.fp32.epochs" in found[0].why


def test_the_machine_is_looked_at(compose: Compose, images: Path, tmp_path: Path) -> None:
    job = make_job(compose("+stage=teacher", *TINY, f"data.root={images}"))
    StageResult("teacher", "f", 0, {}).save(tmp_path / "runs" / "teacher_fp32")
    found = {check.name: check for check in examine(tmp_path / "runs", [job])}
    assert all(check.is_well for check in found.values())
    assert found["images"].told.startswith("32 of ")
    assert found["artefacts"].told.startswith("1 results")
    broken = next((images / "val").rglob("*.png"))
    broken.write_bytes(b"no image")
    (tmp_path / "runs" / "teacher_fp32" / "result.json").write_text("{")
    found = {check.name: check for check in examine(tmp_path / "runs", [job])}
    assert {name for name, check in found.items() if not check.is_well} == {"images", "artefacts"}
    assert broken.name in found["images"].told
    assert "result.json" in found["artefacts"].told


def test_the_job_plan_tells_of_all_steps_and_writes_none(tiny: RunJob, tmp_path: Path) -> None:
    result = tiny("plan")
    assert (result.figures["run"], result.figures["fail"], result.figures["wrong"]) == (11, 0, 0)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"plan"}
    assert "+stage=pipeline" in result.next_command


@pytest.mark.parametrize(("quant", "folder"), [("off", "teacher_fp32"), ("deploy", "teacher_int8")])
def test_one_job_is_planned_under_its_own_scheme(tiny: RunJob, tmp_path: Path, quant: str, folder: str) -> None:
    StageResult("teacher", "f", 0, {}, seconds=5.5).save(tmp_path / "runs" / folder)
    result = tiny("plan", "of=teacher", f"quant={quant}")
    assert [step["took"] for step in result.figures["steps"]] == [5.5]


@pytest.mark.parametrize("words", [["+stage=pipeline"], ["+stage=plan"]])
def test_a_pipeline_takes_no_scheme(compose: Compose, words: list[str]) -> None:
    job = make_job(compose(*words, "superspace=digits", "quant=published"))
    with pytest.raises(ConfigError, match=r"quant = published; each step of a pipeline has its own; leave it out"):
        job.work()


def test_a_pipeline_that_cannot_end_does_not_begin(compose: Compose) -> None:
    job = make_job(compose("+stage=pipeline", "superspace=digits", "platform=none"))
    with pytest.raises(ConfigError, match=r"step .*: platform=none knows no latencies; limit something else"):
        job.work()
