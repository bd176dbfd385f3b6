"""`model=…` stands for a superspace, a space and, for a subnet, a subnet — wherever a stage asks for one."""

from collections.abc import Callable

import pytest
from hydra.errors import HydraException

from spaceevo.errors import ConfigError, EncodingError
from spaceevo.jobs.runner import make_job
from spaceevo.space.published import published_model, published_models
from spaceevo.stages.cost import CostJob
from tests.stages.conftest import Compose

Select = Callable[..., CostJob]


@pytest.fixture
def select(compose: Compose) -> Select:
    """A job that works on what these overrides say."""

    def make(*overrides: str) -> CostJob:
        job = make_job(compose("cost", *overrides))
        assert isinstance(job, CostJob)
        return job

    return make


NAMES = list(published_models())
QUICK = (NAMES[0], NAMES[-1], "SEQnet@vnni-A0")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
)
def test_every_model_gives_its_space_and_subnet(select: Select, name: str) -> None:
    model, found = published_model(name), select(f"model={name}")
    assert found.member == model.member
    if model.spec is not None:
        assert found.subnets(model.member.largest) == [model.spec]
        assert found.best_subnet() == model.spec
    else:
        assert found.subnets(model.member.largest) == [model.member.largest]


def test_what_is_typed_beside_it_counts(select: Select) -> None:
    found = select("model=SEQnet@vnni-A0", "subnet=[SEQnet@vnni-A2,min]")
    assert found.subnets() == [published_model("SEQnet@vnni-A2").spec, found.member.smallest]
    text = str(published_model("SEQnet@vnni-A3").spec)
    assert [str(spec) for spec in select("model=spaceevo@vnni", f"subnet='{text}'").subnets()] == [text]


def test_contradictions_are_named(select: Select) -> None:
    with pytest.raises(EncodingError, match="space 'onnxw-151122-023231' is not of superspace mobilew"):
        _ = select("model=SEQnet@vnni-A0", "superspace=mobilew").member
    with pytest.raises(EncodingError, match="resolution|is not in mobilew-122222-155400: stage"):
        select("model=spaceevo@pixel4", "subnet=SEQnet@vnni-A0").subnets()
    with pytest.raises(ConfigError, match="unknown model 'SEQnet@vnni'; allowed: SEQnet@pixel4-A0"):
        select("model=spaceevo@vnni", "subnet=SEQnet@vnni").subnets()
    with pytest.raises(EncodingError, match="not of the form .*; allowed too: max, min, a published name$"):
        select("model=spaceevo@vnni", "subnet=largest").subnets()
    with pytest.raises(HydraException, match="Could not find 'model/nothing'"):
        select("model=nothing")
