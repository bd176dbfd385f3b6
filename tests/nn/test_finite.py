"""Numbers that are none are an error before anything is saved, counted or written; file and layer are named."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from spaceevo.errors import CheckpointError, DataError
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.evaluate import SubnetEvaluator, count_correct, logits_of, top1
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.convert import to_program
from spaceevo.runtimes.plain import to_plain
from spaceevo.space.description import parse_space
from tests.nn.conftest import Make

MEMBER = parse_space("digits-012-010")
LEAVES = ("weight", "running_var", "running_mean", "quantizer.scale")
INFINITE = [*product(LEAVES, [float("inf"), -float("inf")])]
Images = Callable[[int, int], Tensor]


@pytest.fixture
def supernet(grown: Make) -> Supernet:
    """Its smallest subnet is active, in fp32."""
    found = grown(MEMBER, int8=False)
    found.activate_min()
    return found


@pytest.fixture
def network(grown: Make) -> Network:
    """A small INT8 network."""
    return grown(MEMBER).extract(MEMBER.smallest)


def name_of(network: Network, leaf: str) -> str:
    """The first tensor of this name."""
    return next(name for name in network.state_dict() if name.endswith(leaf))


@pytest.mark.parametrize(
    ("leaf", "value"),
    [
        *product(LEAVES, [float("nan")]),
        INFINITE[1],
        *(pytest.param(*case, marks=pytest.mark.slow) for case in INFINITE if case != INFINITE[1]),
    ],
)
def test_they_are_neither_saved_nor_loaded(supernet: Supernet, tmp_path: Path, leaf: str, value: float) -> None:
    path, name = tmp_path / "best.pth", name_of(supernet, leaf)
    save_checkpoint(path, supernet, CheckpointMeta())
    before = path.read_bytes()
    supernet.state_dict()[name].view(-1)[0] = value  # of one channel alone
    with pytest.raises(CheckpointError, match=rf"best\.pth is not written: {name} is nan or infinite in 1 of \d+ "):
        save_checkpoint(path, supernet, CheckpointMeta())
    assert path.read_bytes() == before
    state = dict(supernet.state_dict())
    torch.save({"state_dict": state, "meta": CheckpointMeta().to_plain()}, path)
    with pytest.raises(CheckpointError, match=rf"supernet: .*best\.pth: {name} is nan .*make it again with: train"):
        read_checkpoint(path, "supernet", "train")
    torch.save({"state_dict": state}, tmp_path / "released.pth")
    save_file({name: state[name].reshape(-1).clone()}, tmp_path / "weights.safetensors")
    for file in ("released.pth", "weights.safetensors"):
        with pytest.raises(CheckpointError, match=f"{file}: {name} is nan or infinite"):
            read_checkpoint(tmp_path / file, "network")


@pytest.mark.parametrize(("leaf", "told"), [("norm.running_var", "negative"), (".last_scale", "not above 0")])
def test_an_impossible_variance_or_scale_is_no_networks(
    supernet: Supernet, tmp_path: Path, leaf: str, told: str
) -> None:
    name = name_of(supernet, leaf)
    supernet.state_dict()[name].view(-1)[0] = -1.0
    with pytest.raises(CheckpointError, match=rf"{name} is {told} in 1 of "):
        save_checkpoint(tmp_path / "best.pth", supernet, CheckpointMeta())


def test_half_precision_that_overflowed_is_told(supernet: Supernet, tmp_path: Path) -> None:
    name = name_of(supernet, "norm.weight")
    supernet.state_dict()[name][0] = 1e6
    for dtype, fits in ((torch.bfloat16, True), (torch.float16, False)):
        state = {
            key: value.to(dtype) if value.is_floating_point() else value for key, value in supernet.state_dict().items()
        }
        torch.save({"state_dict": state, "meta": CheckpointMeta().to_plain()}, tmp_path / "half.pth")
        if fits:
            read_checkpoint(tmp_path / "half.pth", "supernet")
            continue
        with pytest.raises(CheckpointError, match=f"{name} is nan or infinite in 1 of"):
            read_checkpoint(tmp_path / "half.pth", "supernet")


def test_logits_are_an_error_that_names_the_layer(supernet: Supernet, images: Images) -> None:
    """Finite weights may overflow, too."""
    layer = next(name for name, _ in supernet.named_modules() if name.endswith("stage2.blocks.0"))
    batches = [(images(6, 24), torch.arange(6))]
    for name, weight in supernet.named_parameters():
        if name.startswith(f"{layer}.") and weight.ndim == 4:
            weight.data *= 1e38
    for evaluate in (logits_of, top1, count_correct):
        with pytest.raises(CheckpointError, match=rf"logits of 6 of 6 images are nan or infinite; .* is {layer}\."):
            evaluate(supernet, batches)
    supernet.origin = "best.pth"
    with pytest.raises(CheckpointError, match=r"^best\.pth: the logits of 6 of 6"):
        top1(supernet.extract(MEMBER.smallest), batches)
    with pytest.raises(CheckpointError, match="nan or infinite"):
        SubnetEvaluator(supernet, [images(6, 24)], batches)(MEMBER.smallest)


def test_images_are_blamed_where_it_is_their_fault(network: Network, images: Images) -> None:
    shown = images(6, 24)
    shown[2, 0, 3, 3] = float("nan")
    shown[4, 0, 3, 3] = float("inf")
    with pytest.raises(DataError, match="of 6 images are nan or infinite in places"):
        top1(network, [(shown, torch.arange(6))])


def test_a_network_is_not_written(network: Network) -> None:
    size = (3, network.resolution, network.resolution)
    scale = network.image_quantizer.scale if network.image_quantizer else None
    assert scale is not None
    for tensor, name in (
        (scale, "image_quantizer.scale"),
        (network.state_dict()[name_of(network, "running_var")], "var"),
    ):
        kept = tensor.detach().clone()
        tensor.data.view(-1)[0] = float("nan")
        with pytest.raises(CheckpointError, match=f"the network cannot be written: .*{name} is nan or infinite"):
            to_program(network, size)
        with pytest.raises(CheckpointError, match=f"{name} is nan or infinite"):
            to_plain(network)
        tensor.data.copy_(kept)
    assert to_program(network, size).ops
