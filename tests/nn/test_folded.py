"""The folded network against its program and the network it comes from."""

import torch

from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.folded import FoldedNetwork
from spaceevo.quant.program import execute
from spaceevo.space.superspace import Superspace
from tests.nn.conftest import Make
from tests.nn.test_lowering import Images, member_of


@torch.no_grad()
def test_folded_network_is_the_program_and_resizes(zoo: Superspace, grown: Make, images: Images) -> None:
    member = member_of(zoo, "digits-012-010")
    supernet = grown(member)
    spec = member.smallest
    supernet.activate(spec)
    recalibrate(supernet, [images(32, spec.resolution)], supernet)
    network = supernet.extract(spec)
    pictures = images(16, spec.resolution)
    folded, exact = FoldedNetwork(network), FoldedNetwork(network, dtype=torch.float64)
    program = exact.program
    assert torch.equal(exact(pictures), execute(program, pictures))
    steps = (folded(pictures) - exact(pictures)).abs() / program.tensors[program.output_name].scale
    assert (steps < 0.5).double().mean() > 0.98
    assert folded(images(3, 40)).shape == (3, 10)
    # Rounding the biases is all that sets it apart from the trained network.
    spread = network(pictures).std()
    assert (folded(pictures) - network(pictures)).abs().mean() < 0.1 * spread
