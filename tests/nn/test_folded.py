"""The folded network against its program and the network it comes from."""

import pytest
import torch

from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.deployable import FoldedNetwork
from spaceevo.nn.evaluate import count_correct, top1
from spaceevo.nn.layers import ConvLayer
from spaceevo.quant.prepare import quantizers
from spaceevo.quant.program import execute
from spaceevo.space.superspace import Superspace
from tests.nn.conftest import Images, Make, member_of


@pytest.mark.parametrize(("quant", "limit"), [("deploy", 127), ("reduced_range", 63)])
@torch.no_grad()
def test_folded_network_is_the_program_and_resizes(
    zoo: Superspace, grown: Make, images: Images, quant: str, limit: int
) -> None:
    member = member_of(zoo, "digits-012-010")
    supernet = grown(member, quant)
    spec = member.smallest
    supernet.activate(spec)
    recalibrate(supernet, [images(32, spec.resolution)], supernet)
    for quantizer in quantizers(supernet).values():
        if quantizer.scale.requires_grad:  # trained a little: first ranges put many a mean exactly half-way
            quantizer.scale.mul_(1.0037)
    network = supernet.extract(spec)
    pictures = images(16, spec.resolution)
    folded, exact = FoldedNetwork(network), FoldedNetwork(network, dtype=torch.float64)
    program = exact.program
    assert limit / 2 < program.largest_weight <= limit
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
