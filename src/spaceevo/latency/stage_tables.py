"""Recovers block latencies from tables of whole stages, whose every latency is the sum of its blocks'.

Blocks whose latency is known exactly are held; of the others, least squares on the rows decides what the rows
determine, and a prior, smooth in the blocks' sizes, decides the rest: a roofline refined by gradient-boosted trees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import nnls
from scipy.sparse.linalg import lsqr
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction import DictVectorizer

from spaceevo.latency.roofline import block_work, family_of
from spaceevo.space.placement import PlacedBlock, block_key

Array = NDArray[np.float64]
ROUNDS = 3  # How often solution and prior improve each other
DAMPING = 3e-3  # Weight of the prior against the rows, in relative deviations
LEAST_MS = 1e-4
LEAST_SHARE = 0.02  # A block takes at least this share of what the prior says


@dataclass(frozen=True)
class StageRows:
    """Holds stage latencies, one a row, as sums of blocks, which occur in each row so often: `(rows, blocks)`."""

    blocks: tuple[PlacedBlock, ...]
    occurrences: sparse.csr_matrix
    latency_ms: Array

    @classmethod
    def of(cls, rows: Iterable[tuple[Sequence[PlacedBlock], float]]) -> StageRows:
        """Index the blocks of rows of (blocks, ms)."""
        blocks: dict[str, PlacedBlock] = {}
        counts: list[Counter[str]] = []
        latency_ms: list[float] = []
        for placed, row_ms in rows:
            blocks |= {block_key(*block): block for block in placed}
            counts.append(Counter(block_key(*block) for block in placed))
            latency_ms.append(row_ms)
        return cls(tuple(blocks.values()), DictVectorizer(sort=False).fit_transform(counts), np.array(latency_ms))

    @property
    def keys(self) -> list[str]:
        """Write the key of every block."""
        return [block_key(*block) for block in self.blocks]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Count how often every block occurs."""
        return np.asarray(self.occurrences.sum(axis=0)).ravel().astype(np.int64)

    def select(self, chosen: NDArray[np.bool_]) -> StageRows:
        """Take some rows, of the same blocks."""
        return StageRows(self.blocks, self.occurrences[chosen], self.latency_ms[chosen])


def solve_blocks(rows: StageRows, exact_ms: Mapping[str, float]) -> Array:
    """Solve for the latency in ms of every block of `rows`, given those by key whose latency is known."""
    exact = np.array([exact_ms.get(key, np.nan) for key in rows.keys])
    is_known = ~np.isnan(exact)
    roofline = _roofline_prior(rows)
    prior = np.where(is_known, exact, roofline)
    solution = _solve(rows, prior, is_known)
    for _ in range(ROUNDS - 1):
        prior = np.where(is_known, exact, _boosted_prior(rows, roofline, solution, is_known))
        solution = _solve(rows, prior, is_known)
    return solution


def _roofline_prior(rows: StageRows) -> Array:
    """Predict blocks by non-negative costs per family, fitted to whole rows."""
    works = [{(family_of(spec), kind): n for kind, n in block_work(spec, hw).items()} for spec, hw in rows.blocks]
    work = DictVectorizer(sort=False).fit_transform(works)
    scaled = (rows.occurrences @ work).toarray() / rows.latency_ms[:, None]
    # The normal equations, so that the solver need not see every row; the ridge keeps them definite.
    gram = scaled.T @ scaled
    factor = np.linalg.cholesky(gram + np.diag(1e-9 * np.diag(gram) + 1e-15))
    costs = nnls(factor.T, np.linalg.solve(factor, scaled.sum(axis=0)), maxiter=100 * work.shape[1])[0]
    prior: Array = np.maximum(work @ costs, LEAST_MS)
    return prior


def _boosted_prior(rows: StageRows, roofline: Array, solution: Array, is_known: NDArray[np.bool_]) -> Array:
    """Multiply the roofline by what trees learn of the solution's deviation; well determined blocks weigh more."""
    index = {family: number for number, family in enumerate(sorted({family_of(spec) for spec, _ in rows.blocks}))}
    sizes = [(index[family_of(s)], hw, s.cin, s.cout, s.kernel, s.expand or 0, s.stride) for s, hw in rows.blocks]
    features = np.column_stack([np.array(sizes, np.float64), np.log(roofline)])
    trees = HistGradientBoostingRegressor(
        max_iter=400, max_leaf_nodes=63, min_samples_leaf=10, l2_regularization=0.1, categorical_features=[0],
        random_state=0,
    )  # fmt: skip
    weights = np.minimum(rows.counts, 20) + 20 * is_known + 1e-3
    trees.fit(features, np.log(solution / roofline), sample_weight=weights)
    prior: Array = roofline * np.exp(np.asarray(trees.predict(features)))
    return prior


def _solve(rows: StageRows, prior: Array, is_known: NDArray[np.bool_]) -> Array:
    """Minimise squares of relative row errors and relative deviations from the prior; known blocks do not move."""
    weight = sparse.diags(1 / rows.latency_ms)
    moving = weight @ rows.occurrences @ sparse.diags(np.where(is_known, 0.0, prior))
    residual = 1 - (rows.occurrences @ prior) / rows.latency_ms
    deviation = lsqr(moving, residual, damp=DAMPING, atol=1e-9, btol=1e-9, iter_lim=400)[0]
    found: Array = prior * np.maximum(1 + deviation, LEAST_SHARE)
    return found
