"""Recalibration against means and variances taken by hand from what every norm is given."""

from collections.abc import Callable
from random import Random

import pytest
import torch
from torch import Tensor, nn

from spaceevo.errors import SpaceEvoError
from spaceevo.nn.calibrate import even_groups, recalibrate
from spaceevo.nn.evaluate import calibrate_subnet, count_correct, logits_of, subnet_top1, top1
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
def test_statistics_are_the_mean_over_all_images(grown: Make, images: Images, name: str, int8: bool) -> None:
    supernet = grown(parse_space(name), int8=int8)
    spec = supernet.sample(Random(5))
    supernet.activate(spec)
    watch = Watch(supernet)
    recalibrate(supernet, [images(size, spec.resolution) for size in (60, 60, 9)], supernet)
    assert len(watch.seen) > 8
    for layer_name, outputs in watch.seen.items():
        layer = watch.layers[layer_name]
        assert [len(output) for output in outputs] == [64, 65]
        flat = [output.transpose(0, 1).flatten(1) for output in outputs]
        mean = sum(len(o) * x.mean(1) for o, x in zip(outputs, flat, strict=True)) / 129
        variance = sum(len(o) * x.var(1, unbiased=True) for o, x in zip(outputs, flat, strict=True)) / 129
        channels = layer.active.cout
        found = [layer.get_buffer(f"norm.running_{name}")[:channels].double() for name in ("mean", "var")]
        torch.testing.assert_close(found, [mean, variance], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("images", "groups"), [(1, [1]), (66, [66]), (100, [50, 50]), (192, [64] * 3)])
def test_groups_are_even_and_the_same_however_images_come(images: int, groups: list[int]) -> None:
    given = torch.arange(images)
    for size in (1, 2, 7, 64, images):
        found = list(even_groups(torch.split(given, size)))
        assert [len(group) for group in found] == groups
        assert torch.equal(torch.cat(found), given)
    whole = list(torch.split(given, 64))
    if groups == [64] * 3:
        assert [part.data_ptr() for part in even_groups(whole)] == [part.data_ptr() for part in whole]  # not copied


@pytest.mark.parametrize("int8", [False, True])
def test_how_images_are_cut_changes_nothing(grown: Make, images: Images, int8: bool) -> None:
    """Both those of the calibration and those that are evaluated: top-1 and logits, in batches of 1, 2, 7, 64, all."""
    supernet = grown(parse_space(MEMBERS[0]), int8=int8)
    spec = supernet.sample(Random(4))
    shown, labels = images(66, spec.resolution), torch.arange(66) % 10
    found: list[tuple[Tensor, float, tuple[int, int]]] = []
    for size in (66, 1, 2, 7, 64):
        batches = list(zip(torch.split(shown, size), torch.split(labels, size), strict=True))
        calibrate_subnet(supernet, spec, torch.split(shown, size))
        found.append((logits_of(supernet, batches)[0], top1(supernet, batches), count_correct(supernet, batches)))
    for logits, share, counts in found[1:]:
        torch.testing.assert_close(logits, found[0][0], rtol=0, atol=1e-5)
        assert (share, counts) == found[0][1:]


@pytest.mark.parametrize(("rank", "mine"), [(0, 64), (1, 65), (2, 0)])
def test_processes_share_groups_and_one_without_looks_on(
    grown: Make, images: Images, monkeypatch: pytest.MonkeyPatch, rank: int, mine: int
) -> None:
    supernet = grown(parse_space(MEMBERS[0]), int8=False)
    supernet.activate_min()
    weights: list[float] = []
    monkeypatch.setattr("spaceevo.nn.calibrate.world", lambda: (rank, 3))
    monkeypatch.setattr("spaceevo.nn.calibrate.average_", lambda _, weight: weights.append(weight))
    seen: list[int] = []
    recalibrate(supernet, [images(129, 24)], lambda x: seen.append(len(supernet(x))))
    assert weights == [mine]
    assert seen == [mine or 64]


@pytest.mark.parametrize(("value", "fault"), [(float("nan"), "images of a calibration are nan"), (1e30, "running_var")])
def test_statistics_that_are_no_numbers_are_told(grown: Make, images: Images, value: float, fault: str) -> None:
    """Infinite variance in one channel would only make it silent."""
    supernet = grown(parse_space(MEMBERS[0]), int8=False)
    supernet.activate_min()
    shown = images(8, 24)
    shown[3, 1, 2, 2] = value
    with pytest.raises(SpaceEvoError, match=fault):
        recalibrate(supernet, [shown], supernet)


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
