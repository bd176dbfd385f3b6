"""A small quantised network of every digits block type, and its integer program."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import spaceevo
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.convert import to_program
from spaceevo.quant.program import Program


@pytest.fixture(scope="package")
def images() -> Tensor:
    return torch.randn(64, 3, 24, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="package")
def network(images: Tensor, randomize: Callable[[nn.Module], nn.Module]) -> Network:
    torch.manual_seed(0)
    supernet = Supernet(spaceevo.parse_space("digits-012-000")).eval()
    randomize(supernet)
    smallest = supernet.member.smallest
    supernet.activate(smallest)
    spaceevo.set_quant(supernet, True)
    with torch.no_grad():
        supernet(images)
    return supernet.extract(smallest)


@pytest.fixture(scope="package")
def program(network: Network) -> Program:
    return to_program(network, (3, 24, 24))
