"""Fixtures of all tests: determinism, and the reference data where it is present."""

import io
import logging
import os
import pickle
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO

import pytest
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

import spaceevo
from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.program import Program
from spaceevo.report.picture import STYLE
from tests import composing

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Latency tables and compiled code of the tests, apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPACEEVO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def composed_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Processes that share the tests share what they compose; the folder above theirs is of this run alone."""
    own = tmp_path_factory.getbasetemp()
    composing.SHARED = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "composed"
    composing.SHARED.mkdir(exist_ok=True)


@pytest.fixture(scope="session", autouse=True)
def impatient() -> Iterator[None]:
    """Tests look at no latency so closely that they would wait for still moments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spaceevo.runtimes.timing.PATIENCE", 0.0)
        patch.setattr("spaceevo.runtimes.timing.SLACK_S", 0.0)
        patch.setattr("spaceevo.runtimes.timing.FIRST_LOOK_S", 0.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def plain_pictures() -> Iterator[None]:
    """Tests look at no picture so closely that its ticks would need labels that fit, which take most of the drawing."""
    with pytest.MonkeyPatch.context() as patch:
        for fitted in ("figure.constrained_layout.use", "xtick.labelbottom", "ytick.labelleft", "ytick.labelright"):
            patch.setitem(STYLE, fitted, False)
        yield


@pytest.fixture(scope="session", autouse=True)
def open_streams() -> Iterator[None]:
    """Hydra's logging shuts other handlers down, and absl's (of tflite-micro) then closes what pytest captures in."""
    shut_down = logging.shutdown

    def all_but_absls(handlers: list[Callable[[], logging.Handler | None]]) -> None:
        shut_down([each for each in handlers if not type(each()).__module__.startswith("absl")])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("logging.shutdown", all_but_absls)
        yield


@pytest.fixture(scope="session", autouse=True)
def read_once() -> Iterator[None]:
    """Hydra reads the shipped configuration again for each test; parsing the same text anew is half of that."""
    load = OmegaConf.load

    @cache
    def parsed(text: str) -> bytes:
        return pickle.dumps(load(io.StringIO(text)))

    def load_once(file: str | Path | IO[str]) -> DictConfig | ListConfig:
        if isinstance(file, str | Path):
            return load(file)
        config: DictConfig | ListConfig = pickle.loads(parsed(file.read()))
        return config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", staticmethod(load_once))
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of the reference data; it lies beside the project and is not part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip("the reference data (../shared/reference, beside the project) is absent")
    return folder


@pytest.fixture(scope="session")
def randomize() -> Callable[[nn.Module], nn.Module]:
    """Give every batch norm statistics and gains as training leaves them: gains of both signs."""

    @torch.no_grad()
    def apply(module: nn.Module) -> nn.Module:
        for norm in (child for child in module.modules() if isinstance(child, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5).mul_(torch.where(torch.rand_like(norm.weight) < 0.3, -1.0, 1.0))
            norm.bias.normal_(std=0.3)
            norm.running_mean.normal_(std=0.3)
            norm.running_var.uniform_(0.5, 2.0)
        return module

    return apply


@pytest.fixture(scope="session")
def images() -> Tensor:
    """What it is run on: noise that differs in contrast and brightness, as photographs do."""
    generator = torch.Generator().manual_seed(1)
    contrast = 1.5 * torch.rand(64, 1, 1, 1, generator=generator)
    brightness = torch.randn(64, 3, 1, 1, generator=generator)
    return torch.randn(64, 3, 24, 24, generator=generator) * contrast + brightness


@pytest.fixture(scope="session")
def network(images: Tensor, randomize: Callable[[nn.Module], nn.Module]) -> Network:
    """A small quantised network of every digits block type.

    Its statistics are those of the images: else its logits hardly depend on them, and every file would agree.
    """
    torch.manual_seed(0)
    supernet = Supernet(spaceevo.parse_space("digits-012-000")).eval()
    randomize(supernet)
    smallest = supernet.member.smallest
    supernet.activate(smallest)
    recalibrate(supernet, [images], supernet)
    spaceevo.set_quant(supernet, True)
    with torch.no_grad():
        logits = supernet(images)
    assert logits.std(0).mean() > 0.5 * logits.std()
    assert len(logits.argmax(1).unique()) > 5
    return supernet.extract(smallest)


@pytest.fixture(scope="session")
def program(network: Network) -> Program:
    """Its integer program."""
    return to_program(network, (3, 24, 24))
