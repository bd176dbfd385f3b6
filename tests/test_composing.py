"""The tests' own way to compose a configuration gives what Hydra's does."""

from __future__ import annotations

from collections.abc import Iterator

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from spaceevo.space.description import conf_folder
from tests.composing import composed

OF_BLOCKS = "+recipe.lr_by_stage.fp32.stage1=0.5"
WORDS = [
    ["+stage=supernet", "superspace=digits", "data.batch_size=8", OF_BLOCKS, "paths.root=x", "~logger"],
    ["+stage=subnet_search", "+platform@platforms.desk=vnni", "platforms.desk.table=t", "model=SEQnet@vnni-A0"],
    ["superspace=digits", "quant=off", "platform=vnni", "+stage=export", "quant=deploy"],
]


@pytest.fixture(autouse=True)
def initialized() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        yield


@pytest.mark.parametrize("words", WORDS)
def test_it_is_hydras(words: list[str]) -> None:
    whole = hydra.compose("config", words, return_hydra_config=True)
    for _ in range(2):
        mine = composed(words)
        mine.hydra.job.override_dirname = whole.hydra.job.override_dirname
        assert OmegaConf.to_container(mine) == OmegaConf.to_container(whole)
        mine.data.batch_size = 7  # nobody else's


def test_faults_are_hydras() -> None:
    with pytest.raises(ConfigCompositionException, match="Could not override 'data.batch_sizes'"):
        composed(["+stage=supernet", "data.batch_sizes=8"])
