"""Another runtime told from a profiled one by networks measured whole."""

import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

import spaceevo
from spaceevo.errors import TableError
from spaceevo.latency.predictor import BlockLatency
from spaceevo.latency.roofline import Correction, Roofline, family_of, mparams_of
from spaceevo.latency.table import LatencyTable
from spaceevo.latency.transfer import STRENGTH, Factors, Transfer, parts_ms
from spaceevo.space.operators import sample_networks
from spaceevo.space.placement import PlacedBlock, subnet_blocks

ONNXW = spaceevo.superspace("onnxw")
NETWORKS = list(sample_networks(ONNXW, Random(0), 60).values())
PLACED = [subnet_blocks(*network) for network in NETWORKS]
FAMILIES = sorted({family_of(spec) for blocks in PLACED for spec, _ in blocks})
HEADS = ("FeatureMix hswish", "Logits none", "parameters")
"""Much alike in all networks, so that nothing tells them apart."""
COSTS = {"constant": 0.01, "outputs": 0.5, "pointwise_mmacs": 0.02, "depthwise_mmacs": 0.1, "weights": 0.1}
MODEL = Roofline({family: {kind: (n + 2) * ms for kind, ms in COSTS.items()} for n, family in enumerate(FAMILIES)})
KNOWN = LatencyTable({"measured": 1.0}, model=MODEL, correction=Correction(1.25, 0.4))
FACTORS = {"parameters": 1.5} | dict(zip(FAMILIES, np.linspace(0.6, 0.9, len(FAMILIES)).tolist(), strict=True))


def truth_ms(blocks: list[PlacedBlock], factors: dict[str, float]) -> float:
    """What a network takes in the other runtime."""
    alone = sum(factors[family_of(spec)] * MODEL.block_ms(spec, hw) for spec, hw in blocks)
    return 1.25 * alone + factors["parameters"] * 0.4 * mparams_of(blocks)


def errors(found: Transfer, truth: list[float], networks: range) -> NDArray[np.float64]:
    """How far predictions by the new table are off."""
    predictor = BlockLatency(found.table, interpolate=True)
    return np.array([abs(predictor.predict(*NETWORKS[n]) / truth[n] - 1) for n in networks])


def test_factors_are_found_where_networks_are_enough_to_tell_them() -> None:
    truth = [truth_ms(blocks, FACTORS) for blocks in PLACED]
    found = Transfer.fit(KNOWN, PLACED, truth, 1e-8)
    searched = [family for family in FAMILIES if family not in HEADS]
    assert len(searched) == 8
    assert [found.factors[family] for family in searched] == pytest.approx([FACTORS[it] for it in searched], rel=2e-3)
    assert errors(found, truth, range(60)).max() < 1e-3
    assert found.error.mape_percent < 0.05


def test_one_factor_for_all_is_found_exactly_by_few_networks() -> None:
    alike = dict.fromkeys(FACTORS, 0.7)
    for strength in (math.inf, STRENGTH):
        found = Transfer.fit(KNOWN, PLACED[:4], [truth_ms(blocks, alike) for blocks in PLACED[:4]], strength)
        assert found.common == pytest.approx(0.7, rel=1e-6)
        assert found.factors == pytest.approx(dict.fromkeys(FAMILIES, 0.7), rel=1e-6)
        assert found.table.correction == Correction(1.25, 0.28)


@pytest.mark.parametrize("count", [3, 10])
def test_fewer_networks_than_factors_tell_more_than_one_factor_does(count: int) -> None:
    truth = [truth_ms(blocks, FACTORS) for blocks in PLACED]
    found = Transfer.fit(KNOWN, PLACED[:count], truth[:count])
    assert all(0.5 < factor < 1.0 for factor in found.factors.values())
    unseen = errors(found, truth, range(count, 60)).mean()
    assert unseen < 0.05
    one = Transfer.fit(KNOWN, PLACED[:count], truth[:count], math.inf)
    assert unseen < (0.7 if count == 10 else 0.9) * errors(one, truth, range(count, 60)).mean()


def test_what_is_measured_badly_stays_near_one_factor() -> None:
    rng = np.random.default_rng(0)
    alike = dict.fromkeys(FACTORS, 0.7)
    noisy = [truth_ms(blocks, alike) * rng.normal(1, 0.05) for blocks in PLACED[:10]]
    found = Transfer.fit(KNOWN, PLACED[:10], noisy)
    assert all(0.6 < factor < 0.8 for factor in found.factors.values())
    assert 2 < found.error.mape_percent < 10


def least(parts: NDArray[np.float64], latency_ms: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    """Minimise what is to be least from its definition: the common factor and those of the parts."""
    scales = np.linspace(0.3, 1.5, 120_001)  # the common factor alone
    ratios = parts.sum(axis=1) / latency_ms
    alike = scales[np.argmin(((scales[:, None] * ratios - 1) ** 2).sum(axis=1))]

    def loss(x: NDArray[np.float64]) -> float:
        off = parts @ x[1:] / latency_ms - 1
        return float((off**2).sum() + strength * (((x[1:] - x[0]) / alike) ** 2).sum())

    start = np.full(parts.shape[1] + 1, 0.5)
    options = {"maxiter": 20_000, "maxfun": 10**6, "ftol": 1e-16, "gtol": 1e-12}
    return np.asarray(minimize(loss, start, bounds=[(0, None)] * len(start), options=options).x)


@pytest.mark.parametrize("strength", [0.03, 1.0])
def test_factors_are_where_the_definition_is_least(strength: float) -> None:
    truth = np.array([truth_ms(blocks, FACTORS) * (1 + 0.02 * (n % 3 - 1)) for n, blocks in enumerate(PLACED[:8])])
    parts = parts_ms(MODEL, KNOWN.correction, PLACED[:8])
    found = Factors.fit(parts, truth, strength)
    assert [found.common, *found.of_parts] == pytest.approx(least(parts, truth, strength).tolist(), rel=2e-3)


def test_a_network_is_told_by_the_others() -> None:
    truth = [truth_ms(blocks, FACTORS) * (1 + 0.02 * (n % 3 - 1)) for n, blocks in enumerate(PLACED[:6])]
    off = []
    for left in range(6):
        others = [n for n in range(6) if n != left]
        found = Transfer.fit(KNOWN, [PLACED[n] for n in others], [truth[n] for n in others])
        off.append(errors(found, truth, range(left, left + 1))[0])
    assert Transfer.fit(KNOWN, PLACED[:6], truth).error.mape_percent == pytest.approx(100 * np.mean(off), rel=1e-3)


def test_the_new_table_has_no_block_and_keeps_what_a_network_adds(tmp_path: Path) -> None:
    truth = [truth_ms(blocks, FACTORS) for blocks in PLACED]
    made = Transfer.fit(KNOWN, PLACED, truth).table
    assert made.entries == {}
    assert made.correction.scale == 1.25
    made.save(tmp_path / "table.json")
    predictor = BlockLatency.load(tmp_path / "table.json", interpolate=True)
    assert predictor.predict(*NETWORKS[0]) == pytest.approx(truth[0], rel=0.02)


def test_what_cannot_be_fitted_is_said() -> None:
    truth = [truth_ms(blocks, FACTORS) for blocks in PLACED[:3]]
    with pytest.raises(TableError, match="no block of the family"):
        Transfer.fit(LatencyTable(model=Roofline({"other": {}})), PLACED[:3], truth)
    with pytest.raises(TableError, match="blocks take no time at all"):
        Transfer.fit(LatencyTable(model=Roofline(dict.fromkeys(FAMILIES, {}))), PLACED[:3], truth)
    with pytest.raises(TableError, match=r"\+stage=profile makes one"):
        Transfer.fit(LatencyTable(), PLACED[:3], truth)
