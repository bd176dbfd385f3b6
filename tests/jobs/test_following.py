"""What jobs say comes next, and the names and limits they show."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch
import yaml

from spaceevo.artifacts import StageResult
from spaceevo.errors import SpaceEvoError
from spaceevo.jobs.pipeline import PipelineJob, result_folder
from spaceevo.jobs.runner import make_job
from spaceevo.jobs.steps import Outlook, Step, look_ahead
from spaceevo.nn.student import BlockStudent
from spaceevo.quant.quantizer import PUBLISHED
from spaceevo.search.limits import Limit
from spaceevo.space.description import conf_folder, parse_space, superspace
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.published import published_model
from spaceevo.stages.benchmark import BenchmarkJob
from spaceevo.stages.cost import CostJob
from spaceevo.stages.settings import one_or_all
from tests.jobs.conftest import Compose, changed
from tests.nn.published import published, trained

JOBS = ("evaluate", "subnet_search", "export", "supernet", "finetune", "block_kd", "block_lut", "space_search")


def test_a_pipeline_knows_where_the_scores_of_given_spaces_lie(compose: Compose) -> None:
    search = Step("search", "space_search", "deploy")
    for given, folder in ((), "space_search"), (("space=digits-012-010",), "space_search/given"):
        config = compose("+stage=space_search", "superspace=digits", "latency_constraint=1", *given)
        assert result_folder(config, *look_ahead([search], [config])) == folder


@pytest.mark.parametrize("job", JOBS)
def test_nothing_of_one_scheme_is_written_over_another(job: str) -> None:
    """Folders of jobs, of exported files and of look-up tables."""
    found = []
    for scheme in ("off", "deploy", "published"):
        given: dict[str, str] = yaml.safe_load((conf_folder() / "quant" / f"{scheme}.yaml").read_text())
        with changed(job, *(f"quant.{name}='{value}'" for name, value in given.items())) as config:
            found.append([config.stage.folder, config.paths.exported, config.paths.lut])
    assert [len({*places}) for places in zip(*found, strict=True)] == [3, 3, 3]


def test_files_to_deploy_lie_in_the_plain_folder(compose: Compose) -> None:
    assert str(compose("+stage=export").paths.output).endswith("/export")


def test_a_converted_block_is_followed_by_its_own_table(compose: Compose, tmp_path: Path) -> None:
    student = trained(BlockStudent(superspace("digits").stage_space("stage2", 1), (20, 28), PUBLISHED))
    path = tmp_path / "stage2_1" / "lsq.pth"
    path.parent.mkdir()
    torch.save({"model": published(student), "epoch": 4}, path)
    job = make_job(compose("+stage=convert", "superspace=digits", f"checkpoint={path}", "platform=vnni"))
    words = shlex.split(job.work().next_command)
    assert {"+stage=block_lut", "block=stage2_1", "platform=vnni", "quant=published"} <= set(words)
    assert not any(word.startswith("checkpoint=") for word in words)


def test_the_smallest_subnet_is_called_min_though_it_was_published(compose: Compose) -> None:
    model = published_model("SEQnet@pixel4-A0")
    named = {}
    for name in ("spaceevo@vnni", "spaceevo@pixel4", "spaceevo@pixel4-tiny"):
        job = make_job(compose("+stage=cost", f"model={name}"))
        assert isinstance(job, CostJob)
        named[name] = job.subnet_names
        assert (named[name][job.member.smallest], named[name][job.member.largest]) == ("min", "max")
    assert model.spec is not None
    assert named[model.supernet].get(model.spec) in (model.name, "min")


def test_several_limits_are_one_figure() -> None:
    assert one_or_all([15.0]) == 15.0
    assert one_or_all([15.0, 20.5]) == "15, 20.5"


def test_the_table_of_a_pipeline_lists_no_slower_subnet_of_lower_top1(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"top1": 90.0, "latency_ms": 1.0, "subnet": "fast"},
        {"top1": 89.0, "latency_ms": 2.0, "subnet": "beaten"},
        {"top1": 95.0, "latency_ms": 3.0, "subnet": "good"},
    ]
    result = StageResult("subnet_search", "", None, {"pareto_subnets": rows})
    monkeypatch.setattr("spaceevo.jobs.pipeline.run", lambda config, *foreseen: result)
    monkeypatch.setattr("spaceevo.jobs.pipeline.look_ahead", lambda steps, configs: [Outlook("search", "run")])
    step = "{title: search, stage: subnet_search, quant: deploy}"
    job = make_job(compose("+stage=pipeline", "superspace=digits", f"recipe.pipeline.steps=[{step}]"))
    assert isinstance(job, PipelineJob)
    job.work()
    told = capsys.readouterr().out
    assert "fast" in told
    assert "good" in told
    assert "beaten" not in told


def test_a_platform_without_a_table_says_of_which_superspace(compose: Compose, tmp_path: Path) -> None:
    table = f"platform.table={tmp_path}/vnni-onnxw.json"
    job = make_job(compose("+stage=benchmark", "model=SEQnet@vnni-A0", "platform=vnni", table))
    assert isinstance(job, BenchmarkJob)
    with pytest.raises(SpaceEvoError, match=r"\+stage=fit_latency superspace=onnxw platform=vnni source="):
        _ = job.benches


def test_without_a_space_search_auto_finds_a_limit(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    from spaceevo.stages.subnet_search import SubnetSearchJob

    class Known:
        def subnet_ms(self, member: object, spec: SubnetSpec) -> float:
            return 2.0 if spec == parse_space("digits-012-000").smallest else 12.0

    monkeypatch.setattr(SubnetSearchJob, "platforms", {"desk": Known()})
    job = make_job(compose("+stage=subnet_search", "superspace=digits", "space=digits-012-000"))
    assert isinstance(job, SubnetSearchJob)
    assert job._limits("desk") == (Limit.of({"ms": 5.5}),)


@pytest.mark.parametrize(
    ("given", "followed"), [([], "deploy"), (["recipe.pipeline.quant=reduced_range"], "reduced_range")]
)
def test_networks_in_int8_follow_under_the_scheme_of_the_pipeline(
    compose: Compose, given: list[str], followed: str
) -> None:
    for stage in ("block_kd", "supernet"):
        commands = make_job(compose(f"+stage={stage}", "superspace=digits", *given)).workspace.commands
        assert commands.in_int8 == f"quant={followed}"
