"""The folded network against its program and the network it comes from."""

import torch

from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.deployable import FoldedNetwork
from spaceevo.nn.evaluate import count_correct, top1
from spaceevo.nn.layers import ConvLayer
from spaceevo.quant.program import execute
from spaceevo.space.superspace import Superspace
from tests.nn.conftest import Images, Make, member_of


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
    # In eval mode the network, and the supernet it comes from, round their biases as the program does.
    step = program.tensors[program.output_name].scale
    for trained in (network, supernet):
        assert (trained(pictures) - exact(pictures)).abs().max() < 0.01 * step
    labels = exact(pictures).argmax(1)
    assert count_correct(exact, [(pictures[:10], labels[:10]), (pictures[10:], labels[10:])]) == (16, 16)
    assert top1(exact, [(pictures, (labels + 1) % 10)]) == 0
    network.train()
    assert (network(pictures) - exact(pictures)).abs().max() > step


@torch.no_grad()
def test_biases_stay_real_in_float_and_under_published(zoo: Superspace, grown: Make, images: Images) -> None:
    member = member_of(zoo, "digits-012-010")
    for quant, int8 in (("deploy", False), ("published", True)):
        supernet = grown(member, quant, int8)
        leaves = [leaf for leaf in supernet.modules() if isinstance(leaf, ConvLayer)]
        supernet(images(2, supernet.resolution))
        assert all(leaf._bias_rounding() is None for leaf in leaves)
