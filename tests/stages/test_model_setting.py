"""`model=…` stands for a superspace, a space and, for a subnet, a subnet — wherever a stage asks for one."""

from collections.abc import Iterator
from pathlib import Path

import hydra
import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from spaceevo.errors import ConfigError, EncodingError
from spaceevo.space.description import conf_folder
from spaceevo.space.published import published_model, published_models
from spaceevo.stages.base import Context


@pytest.fixture
def context(tmp_path: Path) -> Iterator[object]:
    def make(*overrides: str) -> Context:
        output = [f"paths.output={tmp_path}", f"paths.root={tmp_path}"]
        config = hydra.compose("config", [*overrides, "+stage=evaluate", *output], return_hydra_config=True)
        OmegaConf.resolve(config.paths)
        return Context(config, "evaluate")

    with hydra.initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        yield make


@pytest.mark.parametrize("name", published_models())
def test_every_model_gives_its_space_and_subnet(context, name: str) -> None:
    model, found = published_model(name), context(f"model={name}")
    assert found.member == model.member
    if model.spec is not None:
        assert found.subnets(model.member.largest) == [model.spec]
        assert found.best_subnet() == model.spec
    else:
        assert found.subnets(model.member.largest) == [model.member.largest]


def test_what_is_typed_beside_it_counts(context) -> None:
    found = context("model=SEQnet@vnni-A0", "subnet=[SEQnet@vnni-A2,min]")
    assert found.subnets() == [published_model("SEQnet@vnni-A2").spec, found.member.smallest]
    text = str(published_model("SEQnet@vnni-A3").spec)
    assert [str(spec) for spec in context("model=spaceevo@vnni", f"subnet='{text}'").subnets()] == [text]


def test_contradictions_are_named(context) -> None:
    with pytest.raises(EncodingError, match="space 'onnxw-151122-023231' is not of superspace mobilew"):
        _ = context("model=SEQnet@vnni-A0", "superspace=mobilew").member
    with pytest.raises(EncodingError, match="resolution|is not in mobilew-122222-155400: stage"):
        context("model=spaceevo@pixel4", "subnet=SEQnet@vnni-A0").subnets()
    with pytest.raises(ConfigError, match="unknown model 'SEQnet@vnni'; allowed: SEQnet@pixel4-A0"):
        context("model=spaceevo@vnni", "subnet=SEQnet@vnni").subnets()
    with pytest.raises(HydraException, match="Could not find 'model/nothing'"):
        context("model=nothing")
