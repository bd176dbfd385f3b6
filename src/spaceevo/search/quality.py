"""The Q-T score: how good the networks of a space are that a device runs within a latency constraint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spaceevo.errors import ConfigError, ConstraintError, TableError, choices
from spaceevo.search.lut import BlockLut, LutKey, LutSamples, lut_keys
from spaceevo.space import description
from spaceevo.space.superspace import SpaceMember, Superspace

FloatArray = npt.NDArray[np.float32]
TOP = 50
"""Number of best subnets whose losses count."""
EPSILON = 1e-5
NO_SUBNET_LOSS = 1e5
"""Loss of a space none of whose drawn subnets meets the constraint; greater than any sum of losses."""


@dataclass(frozen=True, slots=True)
class ConstraintQuality:
    """Quality of a space under one constraint: see `Quality`; `constraint_ms` is the latency bound T."""

    constraint_ms: float
    score: float
    probability: float
    loss: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of a space: `score` is the sum over constraints, `probability` and `loss` are their means.

    The probability p is the share of drawn subnets within the constraint, plus 1e-5; the loss L is the mean
    block-distillation loss (NSR summed over stages) of the 50 best among those.
    """

    score: float
    probability: float
    loss: float
    per_constraint: tuple[ConstraintQuality, ...]


class QualityScorer:
    """Scores spaces by the Q-T score: the sum over constraints T of `1 / (max(1, (t / p)^a) · L)`.

    All spaces are judged by the same draws (common random numbers): draw n is a resolution and, for every stage, a
    place between 0 and 1 in whichever table the space selects. Drawing once makes a score hundreds of times cheaper,
    and two spaces then differ by their tables, not by luck. A scorer reuses its buffers, so give each thread its own.

    Args:
        lut_dir: folder of the block look-up tables.
        superspace: a superspace or its name.
        latency_constraints_ms: one or more latency bounds T in ms.
        fixed_latency_ms: latency in ms of the stages outside the tables (first_conv, stage0 and head, at their
            smallest); a number, or one per block resolution.
        t: the probability from which on more of it does not count.
        a: weight of the probability.
        samples: number of draws.
        seed: seed of the draws.
        cache_dir: where the parsed tables are kept, see `BlockLut.load`.

    Raises:
        ConfigError: the superspace or a number is wrong.
        MissingArtifactError: `lut_dir` does not exist.
        TableError: a table is missing or malformed, or `fixed_latency_ms` lacks a resolution.
        ConstraintError: no subnet of any space meets one of the constraints.
    """

    def __init__(
        self,
        lut_dir: Path | str,
        superspace: Superspace | str,
        latency_constraints_ms: float | Sequence[float],
        fixed_latency_ms: float | Mapping[int, float],
        t: float = 0.08,
        a: float = 0.01,
        samples: int = 100_000,
        seed: int = 0,
        *,
        cache_dir: Path | None = None,
    ) -> None:
        self.superspace = description.superspace(superspace) if isinstance(superspace, str) else superspace
        self.constraints_ms = tuple(map(float, np.atleast_1d(latency_constraints_ms)))
        _check_settings(self.constraints_ms, t, a, samples)
        self.t, self.a, self.samples, self.seed = t, a, samples, seed
        self.fixed_latency_ms = _per_resolution(fixed_latency_ms, self.superspace.block_resolutions)
        self._lut = BlockLut.load(lut_dir, self.superspace, cache_dir)
        self._check_constraints()
        # Fresh arrays of this size would cost more than the arithmetic: the system hands them out page by page.
        self._latency, self._loss, self._masked = np.empty((3, samples), dtype=np.float32)
        draws = self._draws(0)
        self._drawn = {key: draws.take(key, self._lut.samples(key)) for key in lut_keys(self.superspace)}

    def score(self, member: SpaceMember | str) -> Quality:
        """Score a space, given as itself or as text (`onnxw-151122-023231`).

        Raises:
            EncodingError: the text is malformed, or the space is of another superspace.
        """
        return self._quality([self._drawn[key] for key in self._keys(member)])

    def standard_error(self, member: SpaceMember | str, replicates: int = 32) -> float:
        """Standard error of a space's score: the deviation of the scores of independent sets of draws."""
        tables = [(key, self._lut.samples(key)) for key in self._keys(member)]
        sets = map(self._draws, range(1, replicates + 1))
        scores = [self._quality([draws.take(*table) for table in tables]).score for draws in sets]
        return float(np.std(scores, ddof=1))

    def latency_range_ms(self, member: SpaceMember | str) -> tuple[float, float]:
        """Latencies in ms of a space's fastest and slowest subnet, of all that its tables can compose."""
        return self._range(self._keys(member))

    @property
    def fastest_ms(self) -> float:
        """Latency in ms of the fastest subnet of any space."""
        return self._range(lut_keys(self.superspace))[0]

    @property
    def slowest_ms(self) -> float:
        """Latency in ms of the slowest subnet of any space."""
        return self._range(lut_keys(self.superspace))[1]

    def _keys(self, member: SpaceMember | str) -> Iterator[LutKey]:
        if isinstance(member, str) or member.superspace is not self.superspace:
            member = description.parse_space(str(member), within=self.superspace)
        return map(LutKey, range(len(member.blocks)), member.blocks, member.windows)

    def _draws(self, replicate: int) -> _Draws:
        return _Draws(
            np.random.default_rng([self.seed, replicate]), self.samples, self.superspace, self.fixed_latency_ms
        )

    def _range(self, keys: Iterator[LutKey]) -> tuple[float, float]:
        """Extremes per stage and resolution over `keys`, summed over stages."""
        stages, resolutions = len(self.superspace.searched), len(self.superspace.block_resolutions)
        fastest, slowest = np.full((stages, resolutions), np.inf), np.zeros((stages, resolutions))
        for key in keys:
            latencies = [samples.latency_ms for samples in self._lut.samples(key)]
            np.minimum(fastest[key.stage], [values.min() for values in latencies], out=fastest[key.stage])
            np.maximum(slowest[key.stage], [values.max() for values in latencies], out=slowest[key.stage])
        fixed = np.array(self.fixed_latency_ms)
        return float((fastest.sum(axis=0) + fixed).min()), float((slowest.sum(axis=0) + fixed).max())

    def _check_constraints(self) -> None:
        fastest = self.fastest_ms
        for constraint in self.constraints_ms:
            if constraint < fastest:
                raise ConstraintError(
                    f"latency_constraint {constraint:g} ms: no subnet of {self.superspace.name} is that fast, "
                    f"the fastest takes {fastest:.4g} ms; allow at least that"
                )

    def _quality(self, stages: Sequence[LutSamples]) -> Quality:
        latency = reduce(partial(np.add, out=self._latency), (stage.latency_ms for stage in stages))
        needed = np.flatnonzero(latency <= max(self.constraints_ms))
        # Where many draws are needed, adding up all losses is cheaper than picking some.
        within = needed if len(needed) <= self.samples // 10 else slice(None)
        latency = latency[within]
        loss = reduce(partial(np.add, out=self._loss[: len(latency)]), (stage.loss[within] for stage in stages))
        parts = tuple(self._constraint_quality(loss, latency, constraint) for constraint in self.constraints_ms)
        return Quality(
            score=sum(part.score for part in parts),
            probability=sum(part.probability for part in parts) / len(parts),
            loss=sum(part.loss for part in parts) / len(parts),
            per_constraint=parts,
        )

    def _constraint_quality(self, loss: FloatArray, latency: FloatArray, constraint_ms: float) -> ConstraintQuality:
        too_slow = latency > constraint_ms
        met = len(latency) - int(np.count_nonzero(too_slow))
        probability = met / self.samples + EPSILON
        mean_loss = NO_SUBNET_LOSS
        if met:
            # Adding a huge loss to slow subnets is several times faster than selecting the others.
            losses = np.multiply(too_slow, np.float32(NO_SUBNET_LOSS), out=self._masked[: len(loss)])
            losses += loss
            count = min(TOP, met)
            mean_loss = float(_smallest(losses, count).sum(dtype=np.float64)) / (count + EPSILON)
        score = 1.0 / (max(1.0, (self.t / probability) ** self.a) * mean_loss)
        return ConstraintQuality(constraint_ms, score, probability, mean_loss)


class _Draws:
    """Random subnets as numbers between 0 and 1, grouped by resolution."""

    def __init__(
        self, rng: np.random.Generator, samples: int, superspace: Superspace, fixed_latency_ms: Sequence[float]
    ) -> None:
        resolutions = len(fixed_latency_ms)
        counts = np.full(resolutions, samples // resolutions)
        # Equal counts, and whoever gets the remainder is drawn: every draw has every resolution with equal chance.
        counts[rng.permutation(resolutions)[: samples % resolutions]] += 1
        self._ends = np.cumsum(counts).tolist()
        self._places = rng.random((len(superspace.searched), samples))
        self._fixed_latency_ms = fixed_latency_ms

    def take(self, key: LutKey, tables: Sequence[LutSamples]) -> LutSamples:
        """Losses and latencies of one stage for every draw, the first stage's with the fixed latency in."""
        taken = LutSamples(*np.empty((2, self._places.shape[1]), dtype=np.float32))
        starts = [0, *self._ends[:-1]]
        for table, start, end, fixed in zip(tables, starts, self._ends, self._fixed_latency_ms, strict=True):
            rows = (self._places[key.stage, start:end] * len(table.loss)).astype(np.intp)
            taken.loss[start:end] = table.loss[rows]
            taken.latency_ms[start:end] = table.latency_ms[rows] + (fixed if key.stage == 0 else 0.0)
        return taken


def _smallest(values: FloatArray, count: int) -> FloatArray:
    """The `count` smallest values, in any order.

    The `count`-th smallest of the minima of disjoint groups bounds the wanted values from above; few values lie below
    the bound, so only those need partitioning.
    """
    groups = len(values) // TOP
    if groups > count:
        minima = values[: groups * TOP].reshape(TOP, groups).min(axis=0)
        values = values[values <= np.partition(minima, count - 1)[count - 1]]
    return np.partition(values, count - 1)[:count]


def _check_settings(constraints_ms: Sequence[float], t: float, a: float, samples: int) -> None:
    if not constraints_ms:
        raise ConfigError("latency_constraint is empty; give one or more latencies in ms")
    for constraint in constraints_ms:
        if not 0.0 < constraint < math.inf:
            raise ConfigError(f"latency_constraint {constraint} must be a positive number of ms")
    for name, value in (("t", t), ("samples", samples)):
        if not value > 0:
            raise ConfigError(f"{name} of the Q-T score is {value}; it must be greater than 0")
    if not a >= 0.0:
        raise ConfigError(f"a of the Q-T score is {a}; it must be 0 or greater")


def _per_resolution(fixed_latency_ms: float | Mapping[int, float], resolutions: Sequence[int]) -> tuple[float, ...]:
    if not isinstance(fixed_latency_ms, Mapping):
        fixed_latency_ms = dict.fromkeys(resolutions, fixed_latency_ms)
    missing = [resolution for resolution in resolutions if resolution not in fixed_latency_ms]
    if missing:
        raise TableError(
            f"latency of the fixed stages is unknown at resolution {choices(missing)}; set platform.fixed_latency_ms"
        )
    latencies = tuple(float(fixed_latency_ms[resolution]) for resolution in resolutions)
    for resolution, latency in zip(resolutions, latencies, strict=True):
        if not 0.0 <= latency < math.inf:
            raise TableError(
                f"platform.fixed_latency_ms is {latency} at resolution {resolution}; it must be 0 ms or greater"
            )
    return latencies
