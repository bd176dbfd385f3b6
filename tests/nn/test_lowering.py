"""Network → integer program: operation by operation on the network's own integers, and as a whole once trained."""

import copy
from collections.abc import Callable
from random import Random

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from spaceevo.errors import ConfigError, ExportError
from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.supernet import Network, Supernet, resize
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import quantizers, set_quant
from spaceevo.quant.program import Op, Program, TensorQuant, execute
from spaceevo.quant.quantizer import ActivationQuantizer
from spaceevo.space.description import parse_space
from spaceevo.space.operators import sample_subnet
from spaceevo.space.superspace import Superspace
from tests.nn.conftest import TYPES, Images, Make, member_of


def tensor_names(quantizer: str) -> list[str]:
    """Tensors of a program that a quantiser of the network may stand for."""
    if quantizer == "image_quantizer":
        return ["images"]
    _, stage, _, block, _, layer, where, what, *_ = quantizer.split(".")
    base = f"{stage}.{block}.{layer}"
    if where == "between":
        return [f"{base}.{what}", f"{base}.pre.{what}"]
    return [base + {"output_quantizer": "", "input_quantizer": ".pre", "gate_quantizer": ".gate"}[what]]


@torch.no_grad()
def recorded(network: Network, program: Program, images: Tensor) -> dict[str, Tensor]:
    """The integers of every tensor of the program, as the network computes them."""
    integers: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[ActivationQuantizer, object, Tensor], None]:
        def hook(quantizer: ActivationQuantizer, _: object, output: Tensor) -> None:
            scale, zero_point = quantizer.scale_and_zero_point()
            (tensor,) = (known for known in tensor_names(name) if known in program.tensors)
            levels = output.double() / scale + zero_point
            integers[tensor] = levels.round()
            assert (levels - integers[tensor]).abs().max() < 1e-2, name
            assert integers[tensor].min() >= 0, name
            assert integers[tensor].max() <= 255, name

        return hook

    activations = {n: q for n, q in quantizers(network).items() if isinstance(q, ActivationQuantizer)}
    handles = [quantizer.register_forward_hook(record(name)) for name, quantizer in activations.items()]
    network(images)
    for handle in handles:
        handle.remove()
    assert integers.keys() == program.tensors.keys()
    return integers


def real_result(op: Op, inputs: list[Tensor], quants: list[TensorQuant]) -> Tensor:
    """What an operation computes from integers, before its result is rounded."""
    centred = [x - quant.zero_point for x, quant in zip(inputs, quants, strict=True)]
    reals = [x * quant.scale for x, quant in zip(centred, quants, strict=True)]
    match op.kind:
        case "conv" | "linear":
            assert op.weights is not None
            weight, bias = torch.from_numpy(op.weights.weight).double(), torch.from_numpy(op.weights.bias).double()
            if op.kind == "linear":
                sums = centred[0].flatten(1) @ weight.flatten(1).T + bias
                return sums * quants[0].scale * torch.from_numpy(op.weights.scale)
            sums = functional.conv2d(centred[0], weight, bias, op.stride, weight.shape[-1] // 2, groups=op.groups)
            return sums * quants[0].scale * torch.from_numpy(op.weights.scale).view(1, -1, 1, 1)
        case "add":
            return reals[0] + reals[1]
        case "mul":
            return reals[0] * reals[1]
        case "mean":
            return reals[0].mean((2, 3), keepdim=True)
        case "sigmoid":
            return torch.sigmoid(reals[0])
        case _:
            return torch.round((reals[0] + 3) * 256 / 6).clamp(0, 255) / 256


@pytest.mark.parametrize("name", [*TYPES, "digits-012-010"])
def test_every_operation_is_the_networks(zoo: Superspace, grown: Make, images: Images, name: str) -> None:
    """From the network's own integers, each operation gives its result, but for a rare step."""
    member = member_of(zoo, name)
    supernet = grown(member)
    spec = sample_subnet(member, Random(1))
    supernet.activate(spec)
    recalibrate(supernet, [images(32, spec.resolution)], supernet)
    network = supernet.extract(spec)
    program = to_program(network, (3, spec.resolution, spec.resolution))
    integers = recorded(network, program, images(16, spec.resolution))
    wrong = total = 0
    for op in program.ops:
        quant = program.tensors[op.output]
        real = real_result(op, [integers[x] for x in op.inputs], [program.tensors[x] for x in op.inputs])
        steps = ((real / quant.scale).round() + quant.zero_point).clamp(0, 255) - integers[op.output]
        assert steps.abs().max() <= 1, op.output
        assert (steps != 0).double().mean() < 0.05, op.output
        wrong, total = wrong + int((steps != 0).sum()), total + steps.numel()
    assert wrong / total < 0.0005
    assert program.output_name == "logits.0.linear"
    assert all(len(integers[op.output].unique()) > 3 for op in program.ops)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Scans of digits, 24 pixels wide, three equal channels."""
    scans = load_digits()
    pictures = torch.from_numpy(scans.images).float().div(8).sub(1).unsqueeze(1).expand(-1, 3, -1, -1)
    return resize(pictures, 24), torch.from_numpy(scans.target)


@pytest.fixture(scope="module")
def trained(digits: tuple[Tensor, Tensor]) -> Network:
    """A subnet of `digits` after a few seconds of training, the last steps in INT8."""
    torch.manual_seed(0)
    member = parse_space("digits-012-010")
    network = Supernet(member).extract(member.smallest)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    for step in range(70):
        if step == 50:
            set_quant(network, True)
            optimizer.param_groups[0]["lr"] = 0.005
        batch = torch.randint(1400, (64,))
        loss = functional.cross_entropy(network(digits[0][batch]), digits[1][batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def test_a_trained_network_and_its_program_agree(trained: Network, digits: tuple[Tensor, Tensor]) -> None:
    pictures, labels = digits[0][1400:], digits[1][1400:]
    logits = trained(pictures)
    result = execute(to_program(trained, (3, 24, 24)), pictures)
    assert (logits.argmax(1) == labels).double().mean() > 0.7
    assert (result.argmax(1) == logits.argmax(1)).double().mean() >= 0.99
    assert (result - logits).abs().mean() < 0.03 * logits.std(0).mean()
    set_quant(trained, False)
    exact = trained(pictures)
    set_quant(trained, True)
    assert (result - logits).norm() < 0.5 * (exact - logits).norm()


@torch.no_grad()
def test_signs_of_gains_do_not_matter_to_the_program(trained: Network, digits: tuple[Tensor, Tensor]) -> None:
    """A channel with weight and gain negated is the same channel; its program gives the same logits, bit for bit."""
    pictures = digits[0][:50]
    before = execute(to_program(trained, (3, 24, 24)), pictures)
    flipped = copy.deepcopy(trained)
    layer = flipped.get_submodule("stages.stage1.blocks.0.layers.depthwise")
    for name in ("convs.0.weight", "norm.weight", "norm.running_mean"):
        layer.state_dict()[name][::2] *= -1
    after = execute(to_program(flipped, (3, 24, 24)), pictures)
    assert torch.equal(after, before)


def test_a_published_network_has_no_program(zoo: Superspace, grown: Make) -> None:
    supernet = grown(zoo.member((0, 0, 0), (0, 0, 0)), "published")
    with pytest.raises((ExportError, ConfigError), match="quant=published"):
        to_program(supernet.extract(supernet.member.smallest), (3, 16, 16))
