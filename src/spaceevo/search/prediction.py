"""Predicted scores of subnets: ridge regression on their choices, from those that have been evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember, StageSpace

Array = NDArray[np.float64]


class ScorePrediction:
    """Linear in the choices of a subnet: one weight a depth, a resolution, and a kernel, width or ratio of each block.

    Args:
        member: the space of the subnets.
        penalty: of the squared weights, in units of one evaluation.
    """

    def __init__(self, member: SpaceMember, penalty: float = 4.0) -> None:
        self.member = member
        self.penalty = penalty
        self._rows: dict[SubnetSpec, list[int]] = {}

    @cached_property
    def _places(self) -> list[list[dict[object, int]]]:
        """For every stage, the positions of its depths and then of each block's choices; last, the resolutions."""
        counter = iter(range(10**9))

        def number(options: Sequence[object]) -> dict[object, int]:
            return {option: next(counter) for option in options}

        def stage_places(stage: StageSpace) -> list[dict[object, int]]:
            block = stage.candidate
            choices = (block.kernels, stage.widths, block.expands)
            return [number(stage.depths)] + [number(c) for _ in range(max(stage.depths)) for c in choices]

        places = [stage_places(stage) for stage in self.member.body]
        return [*places, [number(self.member.superspace.supernet_resolutions)]]

    @cached_property
    def size(self) -> int:
        """Number of weights."""
        return 1 + max(self._places[-1][0].values())

    def active(self, spec: SubnetSpec) -> list[int]:
        """Positions of the choices a subnet makes."""
        if spec not in self._rows:
            found = [self._places[-1][0][spec.resolution]]
            for (depths, *choices), blocks in zip(self._places, spec.stages, strict=False):
                found.append(depths[len(blocks)])
                values = (value for block in blocks for value in block)
                found += [place[value] for place, value in zip(choices, values, strict=False)]
            self._rows[spec] = found
        return self._rows[spec]

    def matrix(self, specs: Sequence[SubnetSpec]) -> Array:
        """One row of zeros and ones a subnet, `(N, size)`."""
        rows = np.zeros((len(specs), self.size))
        for row, spec in zip(rows, specs, strict=True):
            row[self.active(spec)] = 1.0
        return rows

    def predict(self, specs: Sequence[SubnetSpec], known: Sequence[tuple[SubnetSpec, float]]) -> list[float]:
        """Scores of `specs` as the known ones let expect."""
        known_rows = self.matrix([spec for spec, _ in known])
        scores = np.array([score for _, score in known])
        mean_row, mean = known_rows.mean(0), scores.mean()
        centred = known_rows - mean_row
        gram = centred.T @ centred + self.penalty * np.eye(self.size)
        weights = np.linalg.solve(gram, centred.T @ (scores - mean))
        return list(map(float, (self.matrix(specs) - mean_row) @ weights + mean))
