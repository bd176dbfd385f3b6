from random import Random

import numpy as np
import pytest

import spaceevo
from spaceevo.errors import TableError
from spaceevo.latency.accuracy import PredictionError
from spaceevo.latency.roofline import KINDS, Correction, Roofline, block_work, family_of, mparams_of
from spaceevo.space.cost import subnet_cost
from spaceevo.space.operators import sample_member, sample_subnet
from spaceevo.space.placement import PlacedBlock, block_key, subnet_blocks
from spaceevo.space.spec import BlockSpec


def random_blocks(networks: int, seed: int = 0) -> list[PlacedBlock]:
    space, rng = spaceevo.superspace("onnxw"), Random(seed)
    members = [sample_member(space, rng) for _ in range(networks)]
    placed = [block for member in members for block in subnet_blocks(member, sample_subnet(member, rng))]
    return list({block_key(*block): block for block in placed}.values())


def test_work_of_a_block_counted_by_hand() -> None:
    # 1×1 conv 16→32 and swish at 8×8, no more: a final_expand.
    work = block_work(BlockSpec("FinalExpand", 16, 32, 1, None, 1, "swish"), 8)
    assert work == {
        "constant": 1.0,
        "pointwise_mmacs": 64 * 16 * 32 / 1e6,
        "pointwise_tiled_mmacs": 64 * 64 * 32 / 1e6,
        "weights": 16 * 32 / 1e6,
        "far_weights": 0.0,
        "outputs": 64 * 32 / 1e6,
        "inputs": 64 * 16 / 1e6,
        "gated": 64 * 32 / 1e6,
        "layers": 3,
    }


def test_kinds_are_those_that_blocks_have() -> None:
    assert {kind for block in random_blocks(5) for kind in block_work(*block)} == KINDS


def test_work_of_strides_stacks_and_squeeze() -> None:
    stack = block_work(BlockSpec("MobileNetV3K3Res", 8, 16, 5, 2, 2, "hswish"), 9)
    positions, hidden = 25, 16
    assert stack["depthwise_mmacs"] == pytest.approx(2 * 9 * positions * hidden / 1e6)
    assert stack["pooled"] == pytest.approx(positions * hidden / 1e6)
    assert stack["vector_mmacs"] == pytest.approx(2 * hidden * 8 / 1e6)  # squeezed to 8, and back
    assert stack["joined"] == pytest.approx(positions * (hidden + 16) / 1e6)  # gate × hidden, sum
    large = block_work(BlockSpec("ResNet", 256, 256, 7, 1.0, 1, "relu"), 7)
    assert large["far_weights"] == pytest.approx(49 * 256 * 256 / 1e6 - 1)
    assert large["gathered"] == pytest.approx(49 * 49 * 256 / 1e6)


def test_fit_recovers_costs_and_is_non_negative() -> None:
    blocks = random_blocks(60)
    truth = [0.004 + 0.002 * block_work(*b)["weights"] + 0.3 * block_work(*b).get("outputs", 0) for b in blocks]
    model = Roofline.fit(blocks, truth)
    for other in random_blocks(10, seed=1):
        expected = 0.004 + 0.002 * block_work(*other)["weights"] + 0.3 * block_work(*other).get("outputs", 0)
        assert model.block_ms(*other) == pytest.approx(expected, rel=0.02)
    assert all(cost > 0 for costs in model.costs.values() for cost in costs.values())


def test_an_unknown_family_is_an_error() -> None:
    model = Roofline.fit(random_blocks(2), [1.0] * len(random_blocks(2)))
    spec = BlockSpec("MobileNetV2K3Res", 8, 8, 3, 3, 1, "relu6")
    assert not model.knows(spec)
    with pytest.raises(TableError, match="family 'MobileNetV2K3Res relu6' was measured; known: "):
        model.block_ms(spec, 8)
    assert family_of(spec) == "MobileNetV2K3Res relu6"


def test_correction_recovers_scale_and_cost_of_parameters() -> None:
    rng = np.random.default_rng(0)
    sums, mparams = rng.uniform(1, 10, 30), rng.uniform(5, 40, 30)
    found = Correction.fit(sums.tolist(), mparams.tolist(), (1.1 * sums + 0.07 * mparams).tolist())
    assert (found.scale, found.ms_per_mparam) == pytest.approx((1.1, 0.07), rel=1e-4)
    member = spaceevo.parse_space("onnxw-012345-000000")
    placed = subnet_blocks(member, member.smallest)
    assert mparams_of(placed) == pytest.approx(subnet_cost(member, member.smallest).mparams)
    corrected = sum(found.block_ms(2.0, *block) for block in placed)
    assert corrected == pytest.approx(found.scale * 2.0 * len(placed) + found.ms_per_mparam * mparams_of(placed))


def test_error_figures() -> None:
    error = PredictionError.of([1.0, 2.08, 3.6, 3.5], [1.0, 2.0, 3.0, 4.0])
    assert (error.networks, error.within_5_percent, error.within_10_percent) == (4, 50.0, 50.0)
    assert error.mape_percent == pytest.approx((0 + 4 + 20 + 12.5) / 4)
    assert error.bias_percent == pytest.approx(2.0)
    assert error.kendall_tau == pytest.approx(4 / 6)  # one of six pairs in the wrong order
    assert PredictionError.of([1.0], [1.0]).kendall_tau == 0.0
    assert error.figures("unseen_")["unseen_networks"] == 4
