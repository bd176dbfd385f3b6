"""The proven optimum against scoring every space, and the bound against the spaces it is said to cover."""

from pathlib import Path
from random import Random

import numpy as np
import pytest

from spaceevo.search.lut import LutKey, LutRow, lut_file_name, lut_keys, write_lut_file
from spaceevo.search.optimum import OptimumSearch
from spaceevo.search.quality import QualityScorer
from spaceevo.space.description import superspace

SPACE = superspace("digits")
MEMBERS = [SPACE.member(b, w) for b in np.ndindex(3, 3, 3) for w in np.ndindex(2, 2, 2)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Block types differ more than windows do, as in the published tables."""
    folder, rng = tmp_path_factory.mktemp("lut"), np.random.default_rng(4)
    means = rng.uniform([0.3, 1.0], [0.6, 3.0], size=(3, 3, 2))
    for key in lut_keys(SPACE):
        sizes = [SPACE.input_hw(SPACE.searched[key.stage].name, r) for r in SPACE.block_resolutions]
        loss, latency = means[key.stage, key.block] * rng.uniform(0.95, 1.05, 2)
        figures = zip(loss * rng.uniform(0.8, 1.2, 60), latency * rng.uniform(0.5, 1.5, 60), strict=True)
        rows = [LutRow("3#16#2", 8, sizes[n % 2], float(x), 1, 1, float(y)) for n, (x, y) in enumerate(figures)]
        write_lut_file(folder / lut_file_name(SPACE, key), rows)
    return folder


@pytest.fixture(scope="module", params=[(3.0,), (4.5,), (5.0, 7.0)], ids=["few", "many", "two"])
def scorer(tables: Path, request: pytest.FixtureRequest) -> QualityScorer:
    return QualityScorer(tables, SPACE, request.param, 0.5, samples=5000)


def test_optimum_is_the_best_of_all_spaces(scorer: QualityScorer) -> None:
    scores = {member: scorer.score(member).score for member in MEMBERS}
    best = max(MEMBERS, key=scores.__getitem__)
    reports: list[tuple[int, int, float]] = []
    from_worst = OptimumSearch(scorer, min(MEMBERS, key=scores.__getitem__), lambda *report: reports.append(report))
    found = from_worst.run()
    assert (found.space, found.score) == (best, scores[best])
    assert [done for done, _, _ in reports] == list(range(1, 28))
    assert {total for _, total, _ in reports} == {27}
    assert found.scored < len(MEMBERS)
    again = OptimumSearch(scorer, best).run()
    assert (again.space, again.score) == (best, scores[best])
    assert again.bounds <= found.bounds


def test_bound_covers_every_space_of_its_choices(scorer: QualityScorer) -> None:
    rng = Random(0)
    for _ in range(60):
        blocks = [rng.sample(range(3), rng.choice([1, 2])) for _ in range(3)]
        windows = [rng.sample(range(2), rng.choice([1, 2])) for _ in range(3)]
        choices = [
            tuple(LutKey(stage, b, w) for b in blocks[stage] for w in windows[stage]) for stage in range(len(blocks))
        ]
        covered = [m for m in MEMBERS if all(LutKey(s, m.blocks[s], m.windows[s]) in choices[s] for s in range(3))]
        best = max(scorer.score(member).score for member in covered)
        assert scorer.bound(choices) >= best
