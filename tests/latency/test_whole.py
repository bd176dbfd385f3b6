"""Corrections by whole networks, and their error."""

import numpy as np
import pytest

import spaceevo
from spaceevo.latency.table import LatencyTable
from spaceevo.latency.whole import WholeNetworks
from spaceevo.space.placement import block_key, subnet_blocks

MEMBER = spaceevo.parse_space("digits-012-000")


def test_error_is_of_networks_that_were_left_out() -> None:
    sums, mparams = [1.0, 2.0, 3.0, 5.0], [0.4, 0.1, 0.2, 0.9]
    exact = WholeNetworks(sums, mparams, [1.1 * s + 0.3 * m for s, m in zip(sums, mparams, strict=True)])
    assert exact.error().mape_percent == pytest.approx(0, abs=1e-3)
    # without weights one scale is left, of which the relative error is least at the sum of r over that of r²
    measured = [1.0, 2.2, 3.6, 5.0]
    ratios = np.array(sums) / measured
    left_out = [np.delete(ratios, i) for i in range(4)]
    expected = [abs(r.sum() / (r**2).sum() * ratios[i] - 1) for i, r in enumerate(left_out)]
    assert WholeNetworks(sums, [0.0] * 4, measured).error().mape_percent == pytest.approx(100 * np.mean(expected), 1e-4)


def test_blocks_are_added_up_without_an_earlier_correction() -> None:
    blocks = subnet_blocks(MEMBER, MEMBER.smallest)
    table = LatencyTable({block_key(*block): 0.5 for block in blocks})
    found = WholeNetworks.of(table, [blocks], [9.0])
    assert found.sums_ms == [pytest.approx(0.5 * len(blocks))]
    assert found.correction().scale * found.sums_ms[0] + found.correction().ms_per_mparam * found.mparams[0] == (
        pytest.approx(9.0, rel=1e-4)
    )
