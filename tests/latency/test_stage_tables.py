from random import Random

import numpy as np
import pytest

import spaceevo
from spaceevo.latency.roofline import block_work
from spaceevo.latency.stage_tables import StageRows, solve_blocks
from spaceevo.space.operators import sample_substage
from spaceevo.space.placement import PlacedBlock, block_key, place


def truth_ms(block: PlacedBlock) -> float:
    """A law that no roofline has: costs that depend on the kernel, and a jump."""
    spec, hw = block
    work = sum(value for kind, value in block_work(*block).items() if kind.endswith("mmacs"))
    return 0.02 + 0.01 * spec.kernel**0.5 * work + (0.05 if spec.cout > 40 else 0.0) * hw / 10


def stage_rows(count: int, seed: int = 0) -> list[tuple[list[PlacedBlock], float]]:
    space, rng = spaceevo.superspace("onnxw"), Random(seed)
    rows = []
    for _ in range(count):
        stage = space.stage_space("stage2", rng.randrange(3), rng.randrange(2))
        blocks = place(stage.specs(sample_substage(stage, rng), rng.choice(stage.cins)), rng.choice([40, 56]))
        rows.append((blocks, sum(map(truth_ms, blocks))))
    return rows


def test_rows_count_every_occurrence() -> None:
    spec = spaceevo.superspace("onnxw").stage_space("stage2", 0).specs
    blocks = place(spec(spaceevo.superspace("onnxw").stage_space("stage2", 0).smallest * 2, 32), 40)
    rows = StageRows.of([(blocks, 1.0), (blocks[:1], 0.5)])
    assert rows.keys == list(dict.fromkeys(block_key(*block) for block in blocks))
    assert rows.counts.tolist() == [2, 3]  # the last three of a row are the same block
    assert rows.occurrences.toarray().tolist() == [[1, 3], [1, 0]]
    assert rows.select(np.array([False, True])).latency_ms.tolist() == [0.5]


def test_blocks_are_recovered_and_exact_ones_kept() -> None:
    train, unseen = stage_rows(1500), stage_rows(200, seed=1)
    rows = StageRows.of(train)
    exact = {key: truth_ms(block) for key, block in list(zip(rows.keys, rows.blocks, strict=True))[::5]}
    found = dict(zip(rows.keys, solve_blocks(rows, exact), strict=True))
    assert all(found[key] == pytest.approx(latency, rel=1e-12) for key, latency in exact.items())
    known = [(b, ms) for b, ms in unseen if all(block_key(*block) in found for block in b)]
    errors = [abs(sum(found[block_key(*block)] for block in blocks) / ms - 1) for blocks, ms in known]
    assert len(known) > 80
    assert np.mean(np.array(errors) < 0.01) > 0.9
    assert max(errors) < 0.2
