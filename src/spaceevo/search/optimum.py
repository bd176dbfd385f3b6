"""The best of all spaces, proven: branch and bound under a scorer's draws."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, product
from operator import itemgetter

from spaceevo.search.lut import LutKey, lut_keys
from spaceevo.search.quality import QualityScorer
from spaceevo.space.superspace import SpaceMember

Choices = tuple[tuple[LutKey, ...], ...]


@dataclass(frozen=True)
class Optimum:
    """Holds the best space and its score; none of the superspace scores higher under the same draws."""

    space: SpaceMember
    score: float
    bounds: int  # sets of spaces that were bounded
    scored: int  # spaces that were scored


class OptimumSearch:
    """Bounds the score of all spaces of each combination of block types, and looks into those that may hold the best.

    A bound lets every draw of a stage take the least loss and the least latency of all windows left open. Since all
    tables are sampled in order of loss, windows differ little in a draw, and few combinations have to be opened.

    Args:
        scorer: scores spaces.
        known: a good space; the better, the less has to be opened.
        on_progress: receives combinations of block types done, their number and the best space's score.
    """

    def __init__(
        self,
        scorer: QualityScorer,
        known: SpaceMember,
        on_progress: Callable[[int, int, float], None] = lambda done, total, score: None,
    ) -> None:
        self._scorer = scorer
        self._on_progress = on_progress
        self._best, self._score = known, scorer.score(known).score
        self._bounds = self._scored = 0

    def run(self) -> Optimum:
        """Search all of the superspace."""
        space = self._scorer.superspace
        blocks = range(len(space.candidates))
        windows = {choice: tuple(keys) for choice, keys in groupby(lut_keys(space), itemgetter(0, 1))}
        total = len(blocks) ** len(space.searched)
        for done, combination in enumerate(product(blocks, repeat=len(space.searched)), start=1):
            self._open(tuple(windows[stage, block] for stage, block in enumerate(combination)))
            self._on_progress(done, total, self._score)
        return Optimum(self._best, self._score, self._bounds, self._scored)

    def _open(self, choices: Choices) -> None:
        """Look for a better space among `choices`, a stage's windows one by one, unless the bound rules it out."""
        stage = next((stage for stage, keys in enumerate(choices) if len(keys) > 1), None)
        if stage is None:
            keys = [key for (key,) in choices]
            self._scored += 1
            member = self._scorer.superspace.member([key.block for key in keys], [key.window for key in keys])
            score = self._scorer.score(member).score
            if score > self._score:
                self._best, self._score = member, score
            return
        self._bounds += 1
        if self._scorer.bound(choices) > self._score:
            for key in choices[stage]:
                self._open((*choices[:stage], (key,), *choices[stage + 1 :]))
