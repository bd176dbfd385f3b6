"""Another runtime told from a profiled one by networks measured whole."""

import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
from scipy.optimize import minimize

import spaceevo
from spaceevo.errors import TableError
from spaceevo.latency.predictor import BlockLatency
from spaceevo.latency.roofline import Correction, Roofline, family_of, mparams_of
from spaceevo.latency.table import LatencyTable
from spaceevo.latency.transfer import STRENGTHS, Factors, FamilySums, Transfer
from spaceevo.space.operators import Network, sample_networks
from spaceevo.space.placement import PlacedBlock, subnet_blocks

ONNXW = spaceevo.superspace("onnxw")
NETWORKS = list(sample_networks(ONNXW, Random(0), 60).values())
PLACED = [subnet_blocks(*network) for network in NETWORKS]
FAMILIES = sorted({family_of(spec) for blocks in PLACED for spec, _ in blocks})
COSTS = {"constant": 0.01, "outputs": 0.5, "pointwise_mmacs": 0.02, "depthwise_mmacs": 0.1, "weights": 0.1}
MODEL = Roofline({family: {kind: (n + 2) * ms for kind, ms in COSTS.items()} for n, family in enumerate(FAMILIES)})
FACTORS = dict(zip(FAMILIES, np.linspace(0.6, 0.9, len(FAMILIES)).tolist(), strict=True))
MS_PER_MPARAM = 0.3


def truth_ms(blocks: list[PlacedBlock], factors: dict[str, float], noise: float = 1.0) -> float:
    """What a network takes in the other runtime."""
    alone = sum(factors[family_of(spec)] * MODEL.block_ms(spec, hw) for spec, hw in blocks)
    return noise * (alone + MS_PER_MPARAM * mparams_of(blocks))


def test_factors_are_found_where_networks_are_enough_to_tell_them() -> None:
    found = Transfer.fit(MODEL, PLACED, [truth_ms(blocks, FACTORS) for blocks in PLACED], strengths=(math.inf, 1e-8))
    assert found.strength == 1e-8
    heads = {"FeatureMix hswish", "Logits none"}  # alike in all networks, so that nothing tells them apart
    searched = [family for family in FAMILIES if family not in heads]
    assert len(searched) == 8
    assert [found.factors[family] for family in searched] == pytest.approx([FACTORS[it] for it in searched], rel=1e-3)
    assert found.ms_per_mparam == pytest.approx(MS_PER_MPARAM, rel=1e-3)
    assert found.error.mape_percent < 0.01


def test_few_networks_tell_a_common_factor_exactly_and_of_families_what_they_can() -> None:
    """Ten networks are fewer than the numbers asked for."""
    alike = dict.fromkeys(FAMILIES, 0.7)
    found = Transfer.fit(MODEL, PLACED[:10], [truth_ms(blocks, alike) for blocks in PLACED[:10]])
    assert found.common == pytest.approx(0.7, rel=1e-4)
    assert found.factors == pytest.approx(alike, rel=1e-3)
    for count in (3, 10):
        truth = [truth_ms(blocks, FACTORS) for blocks in PLACED]
        sums = FamilySums.of(MODEL, PLACED, truth)
        found = Transfer.fit(MODEL, PLACED[:count], truth[:count])
        predicted = Factors(found.common, np.array([*found.factors.values()]), found.ms_per_mparam).predict(sums)
        assert all(0.4 < factor < 1.2 for factor in found.factors.values())
        errors = np.abs(predicted / truth - 1)[count:]
        assert errors.mean() < 0.05
        if count == 10:
            one = Transfer.fit(MODEL, PLACED[:count], truth[:count], strengths=(math.inf,))
            by_one = Factors(one.common, np.array([*one.factors.values()]), one.ms_per_mparam).predict(sums)
            assert errors.mean() < 0.7 * np.abs(by_one / truth - 1)[count:].mean()


def test_what_is_measured_badly_is_drawn_to_one_factor() -> None:
    rng = np.random.default_rng(0)
    noisy = [truth_ms(blocks, dict.fromkeys(FAMILIES, 0.7), rng.normal(1, 0.05)) for blocks in PLACED[:10]]
    found = Transfer.fit(MODEL, PLACED[:10], noisy)
    assert found.strength >= 0.3
    assert all(0.6 < factor < 0.8 for factor in found.factors.values())
    assert 2 < found.error.mape_percent < 10


def least(sums: FamilySums, strength: float) -> np.ndarray:
    """Minimise what is to be least from its definition: the common factor, those of families, ms per MParam."""
    total = sums.sums_ms.sum(axis=1)
    alike = Correction.fit(total.tolist(), sums.mparams.tolist(), sums.latency_ms.tolist())

    def loss(x: np.ndarray) -> float:
        errors = (sums.sums_ms @ x[1:-1] + x[-1] * sums.mparams) / sums.latency_ms - 1
        return float((errors**2).sum() + strength * ((x[1:-1] / alike.scale - x[0] / alike.scale) ** 2).sum())

    start = np.full(sums.sums_ms.shape[1] + 2, 0.5)
    options = {"maxiter": 20000, "maxfun": 10**6, "ftol": 1e-16, "gtol": 1e-12}
    return np.asarray(minimize(loss, start, bounds=[(0, None)] * len(start), options=options).x)


@pytest.mark.parametrize("strength", [0.03, 1.0])
def test_factors_are_where_the_definition_is_least(strength: float) -> None:
    truth = [truth_ms(blocks, FACTORS, 1 + 0.02 * (n % 3 - 1)) for n, blocks in enumerate(PLACED[:8])]
    sums = FamilySums.of(MODEL, PLACED[:8], truth)
    found = Factors.fit(sums, strength)
    expected = least(sums, strength)
    assert [found.common, *found.of_families, found.ms_per_mparam] == pytest.approx(expected.tolist(), rel=2e-3)


def test_the_strength_is_the_one_that_tells_each_network_best_by_the_others() -> None:
    truth = [truth_ms(blocks, FACTORS, 1 + 0.015 * (n % 3 - 1)) for n, blocks in enumerate(PLACED[:10])]
    squares = {}
    for strength in STRENGTHS:
        errors = []
        for left in range(10):
            others = [n for n in range(10) if n != left]
            sums = FamilySums.of(MODEL, [PLACED[n] for n in others], [truth[n] for n in others])
            factors = Factors.fit(sums, strength)
            by_family = dict(zip(sums.families, factors.of_families, strict=True))
            ms = sum(by_family[family_of(spec)] * MODEL.block_ms(spec, hw) for spec, hw in PLACED[left])
            errors.append((ms + factors.ms_per_mparam * mparams_of(PLACED[left])) / truth[left] - 1)
        squares[strength] = np.square(errors).mean()
    found = Transfer.fit(MODEL, PLACED[:10], truth)
    assert found.strength == min(squares, key=lambda strength: squares[strength])
    assert found.strength not in (STRENGTHS[0], STRENGTHS[-1])


def test_the_new_table_predicts_what_was_fitted_and_keeps_what_a_network_adds(tmp_path: Path) -> None:
    truth = [truth_ms(blocks, FACTORS) for blocks in PLACED]
    found = Transfer.fit(MODEL, PLACED, truth, strengths=(1e-8,))
    made = found.applied(LatencyTable({"measured": 1.0}, model=MODEL, correction=Correction(1.25, 7.0)))
    assert made.entries == {}
    assert made.correction.scale == 1.25
    made.save(tmp_path / "table.json")
    predictor = BlockLatency.load(tmp_path / "table.json", interpolate=True)
    networks: list[Network] = NETWORKS[:5]
    assert [predictor.predict(*network) for network in networks] == pytest.approx(truth[:5], rel=1e-3)


def test_what_cannot_be_fitted_is_said() -> None:
    with pytest.raises(TableError, match="do not grow with what the model says"):  # MParams tell all of them
        Transfer.fit(MODEL, PLACED[:3], [mparams_of(blocks) for blocks in PLACED[:3]])
    with pytest.raises(TableError, match="no block of the family"):
        Transfer.fit(Roofline({"other": {}}), PLACED[:3], [1.0, 2.0, 3.0])
    with pytest.raises(TableError, match=r"\+stage=profile makes one"):
        Transfer.fit(MODEL, PLACED, [truth_ms(blocks, FACTORS) for blocks in PLACED]).applied(LatencyTable())
