"""A network trained under quant=published, made deployable."""

import pytest
import torch

from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.deployable import FINEST_MEAN, make_deployable
from spaceevo.quant.convert import to_program
from spaceevo.quant.prepare import quantizers
from spaceevo.quant.program import execute
from spaceevo.quant.quantizer import ActivationQuantizer
from spaceevo.runtimes.onnx.runtime import OnnxRuntime
from spaceevo.space.superspace import Superspace
from tests.nn.conftest import TYPES, Images, Make, member_of


@torch.no_grad()
@pytest.mark.parametrize("name", [*TYPES, "digits-012-010"])
def test_it_computes_nearly_the_same_and_lowers(zoo: Superspace, grown: Make, images: Images, name: str) -> None:
    member = member_of(zoo, name)
    supernet = grown(member, "published")
    spec = member.smallest
    supernet.activate(spec)
    recalibrate(supernet, [images(32, spec.resolution)], supernet)
    published = supernet.extract(spec)
    pictures = images(32, spec.resolution)
    deployable, calibrated = make_deployable(published, pictures)
    logits = published(pictures)
    program = to_program(deployable, (3, spec.resolution, spec.resolution))
    assert set(calibrated) <= set(program.tensors)
    assert program.output_name in calibrated
    assert not any(tensor in calibrated for op in program.ops if op.weights is not None for tensor in op.inputs)
    for result in (deployable(pictures), execute(program, pictures)):
        assert (result - logits).norm() < 0.2 * (logits - logits.mean(0)).norm()


@torch.no_grad()
def test_learned_ranges_are_kept(zoo: Superspace, grown: Make, images: Images) -> None:
    supernet = grown(zoo.member((0, 0, 0), (0, 0, 0)), "published")
    published = supernet.extract(supernet.member.smallest)
    deployable, _ = make_deployable(published, images(8, 16))
    source = quantizers(published)["stages.stage0.blocks.0.layers.depthwise.convs.0.input_quantizer"]
    scale, offset = (source.get_parameter(name).item() for name in ("scale", "offset"))
    low, high = min(0.0, offset), max(0.0, offset + 255 * abs(scale))
    target = quantizers(deployable)["stages.first_conv.blocks.0.layers.conv.activation.output_quantizer"]
    assert isinstance(target, ActivationQuantizer)
    assert target.scale.item() == pytest.approx((high - (low if target.config.learns_offset else 0.0)) / 255, rel=1e-5)
    assert all(q.initialized for q in quantizers(deployable).values() if isinstance(q, ActivationQuantizer))


@torch.no_grad()
def test_a_mean_far_finer_than_its_values_is_coarsened_as_far_as_a_runtime_takes_it(
    zoo: Superspace, grown: Make, images: Images
) -> None:
    """As where training changed values by orders of magnitude, and had no time to change ranges."""
    supernet = grown(zoo.member((0, 0, 0), (0, 0, 0)), "published")
    published, pictures = supernet.extract(supernet.member.smallest), images(8, 16)
    after_pool = quantizers(published)["stages.feature_mix.blocks.0.layers.conv.convs.0.input_quantizer"]
    for name in ("scale", "offset"):
        after_pool.get_parameter(name).mul_(1e-5)
    deployable, _ = make_deployable(published, pictures)
    program = to_program(deployable, (3, 16, 16))
    (pool,) = (op for op in program.ops if op.output == "feature_mix.0.pool")
    values, mean = (program.tensors[name].scale for name in (pool.inputs[0], pool.output))
    assert mean == pytest.approx(values / FINEST_MEAN)
    assert OnnxRuntime().load(OnnxRuntime().write(program)).logits(pictures).shape[0] == 8
