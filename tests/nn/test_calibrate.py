"""Recalibration against means and variances taken by hand from what every norm is given."""

from collections.abc import Callable
from random import Random

import pytest
import torch
from torch import Tensor, nn

from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.evaluate import calibrate_subnet, logits_of, subnet_top1, top1
from spaceevo.nn.layers import ConvLayer, ElasticConv
from spaceevo.nn.supernet import Supernet
from spaceevo.space.description import parse_space
from tests.nn.conftest import Make

Images = Callable[[int, int], Tensor]
MEMBERS = ["digits-012-010", "digits-201-111"]


def norms_of(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]


class Watch:
    """Collects the inputs of the norms in force: outputs of the last convolution before each."""

    def __init__(self, supernet: Supernet) -> None:
        self.layers = {}
        self.seen: dict[str, list[Tensor]] = {}
        for name, layer in supernet.named_modules():
            if isinstance(layer, ConvLayer) and layer.norm is not None:
                self.layers[name] = layer
                for index, conv in enumerate(layer.convs):
                    conv.register_forward_hook(self.hook(name, layer, index))

    def hook(self, name: str, layer: ConvLayer, index: int) -> Callable[[ElasticConv, object, Tensor], None]:
        def record(_: ElasticConv, __: object, output: Tensor) -> None:
            if index == layer.active.stack - 1:
                self.seen.setdefault(name, []).append(output.double())

        return record


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", MEMBERS)
def test_statistics_are_the_mean_over_batches(grown: Make, images: Images, name: str, int8: bool) -> None:
    supernet = grown(parse_space(name), int8=int8)
    spec = supernet.sample(Random(5))
    supernet.activate(spec)
    watch = Watch(supernet)
    batches = [images(size, spec.resolution) for size in (8, 8, 3)]
    recalibrate(supernet, batches, supernet)
    assert len(watch.seen) > 8
    for layer_name, outputs in watch.seen.items():
        layer = watch.layers[layer_name]
        assert len(outputs) == 3
        mean = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
        flat = [output.transpose(0, 1).flatten(1) for output in outputs]
        variance = torch.stack([values.var(1, unbiased=True) for values in flat]).mean(0)
        channels = layer.active.cout
        found = [layer.get_buffer(f"norm.running_{name}")[:channels].double() for name in ("mean", "var")]
        torch.testing.assert_close(found, [mean, variance], rtol=1e-4, atol=1e-5)


def test_what_is_not_in_force_stays(grown: Make, images: Images) -> None:
    supernet = grown(parse_space(MEMBERS[0]), int8=False)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    supernet.activate_min()
    recalibrate(supernet, [images(8, 24)] * 2, supernet)
    changed = {name for name, value in supernet.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rsplit(".", 1)[-1] for name in changed} == {"running_mean", "running_var"}
    assert not any(".blocks.1." in name for name in changed)
    for name, module in supernet.named_modules():
        if isinstance(module, ConvLayer) and f"{name}.norm.running_mean" in changed:
            channels = module.active.cout
            for statistic in ("running_mean", "running_var"):
                key = f"{name}.norm.{statistic}"
                assert torch.equal(supernet.state_dict()[key][channels:], before[key][channels:])


def test_momenta_and_eval_mode_are_left_behind(grown: Make, images: Images) -> None:
    supernet = grown(parse_space(MEMBERS[0]), int8=False).train()
    supernet.activate_min()
    for index, norm in enumerate(norms_of(supernet)):
        norm.momentum = 0.01 * (index + 1)
    recalibrate(supernet, [images(4, 24)] * 3, supernet)
    assert [norm.momentum for norm in norms_of(supernet)] == [0.01 * (i + 1) for i in range(len(norms_of(supernet)))]
    assert not any(module.training for module in supernet.modules())


def test_an_interruption_restores_them_too(grown: Make) -> None:
    supernet = grown(parse_space(MEMBERS[0]), int8=False).train()

    def fail(_: Tensor) -> None:
        raise RuntimeError("no more images")

    with pytest.raises(RuntimeError, match="no more images"):
        recalibrate(supernet, [torch.zeros(1)], fail)
    assert {norm.momentum for norm in norms_of(supernet)} == {0.1}
    assert not any(module.training for module in supernet.modules())


def test_no_gradients_are_kept(grown: Make, images: Images) -> None:
    supernet = grown(parse_space(MEMBERS[0]))
    supernet.activate_min()
    outputs: list[Tensor] = []
    recalibrate(supernet, [images(4, 24)], lambda x: outputs.append(supernet(x)))
    assert not outputs[0].requires_grad


def test_old_statistics_are_forgotten(grown: Make, images: Images) -> None:
    supernet = grown(parse_space(MEMBERS[0]), int8=False)
    supernet.activate_min()
    batches = [images(8, 24) for _ in range(2)]
    recalibrate(supernet, batches, supernet)
    first = supernet(batches[0])
    for norm in norms_of(supernet):
        norm.running_mean.fill_(-1e6)
        norm.running_var.fill_(1e6)
    recalibrate(supernet, batches, supernet)
    assert torch.equal(supernet(batches[0]), first)


def test_a_subnet_is_calibrated_and_scored(grown: Make, images: Images) -> None:
    supernet = grown(parse_space(MEMBERS[0]))
    spec = supernet.sample(Random(3))
    batches = [images(8, spec.resolution) for _ in range(3)]
    calibrate_subnet(supernet, spec, batches[:2])
    assert supernet.spec == spec
    assert not supernet.training
    with torch.no_grad():
        predicted = [supernet(batch).argmax(1) for batch in batches]
    wrong = (predicted[2] + 1) % 10
    labelled = [(batches[0], predicted[0]), (batches[1], predicted[1]), (batches[2], wrong)]
    assert top1(supernet, labelled) == pytest.approx(100 * 16 / 24)
    supernet.activate_max()
    supernet.train()
    assert subnet_top1(supernet, spec, batches[:2], labelled) == pytest.approx(100 * 16 / 24)


def test_logits_and_labels_keep_their_order(grown: Make, images: Images) -> None:
    network = grown(parse_space(MEMBERS[0])).extract(parse_space(MEMBERS[0]).smallest).train()
    batches = [(images(count, 24), torch.arange(count)) for count in (5, 2)]
    logits, labels = logits_of(network, batches)
    assert labels.tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert not network.training
    with torch.no_grad():
        assert torch.equal(logits[5:], network(batches[1][0]))
