"""The Q-T score: how good the networks of a space are that a device runs within a latency constraint."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spaceevo.errors import ConfigError, ConstraintError, TableError, choices
from spaceevo.search.limits import SETTINGS, UNITS, Demand, Limit, kinds_of
from spaceevo.search.lut import BlockLut, FloatArray, LutKey, LutSamples, lut_keys
from spaceevo.search.row_demands import RowDemands
from spaceevo.search.sampled import Places, SampledLut, bound_ms
from spaceevo.space import description
from spaceevo.space.superspace import SpaceMember, Superspace

TOP = 50  # Number of best subnets whose losses count
EPSILON = 1e-5
NO_SUBNET_LOSS = 1e5  # Of a space none of whose sampled subnets meets the constraint; greater than any sum of losses


@dataclass(frozen=True, slots=True)
class ConstraintQuality:
    """Holds the quality of a space under one constraint, usually a latency bound T; see `Quality`."""

    limit: Limit
    score: float
    probability: float
    loss: float

    @property
    def constraint_ms(self) -> float:
        """The latency bound T in ms, infinite where latency is not limited."""
        return math.inf if self.limit.ms is None else self.limit.ms


@dataclass(frozen=True, slots=True)
class Quality:
    """Holds the quality of a space: `score` is the sum over constraints, `probability` and `loss` are their means.

    The probability p is the share of sampled subnets within the constraint, plus 1e-5; the loss L is the mean
    block-distillation loss (NSR summed over stages) of the 50 best among those.
    """

    score: float
    probability: float
    loss: float
    per_constraint: tuple[ConstraintQuality, ...]

    def score_for(self, t: float, a: float) -> float:
        """Compute the score this space would have under another `t` and `a`."""
        return sum(qt_score(part.probability, part.loss, t, a) for part in self.per_constraint)


def qt_score(probability: float, loss: float, t: float, a: float) -> float:
    """Compute the Q-T score of one constraint: `1 / (max(1, (t / p)^a) · L)`."""
    return float(1.0 / (max(1.0, (t / probability) ** a) * loss))


class QualityScorer:
    """Scores spaces by the Q-T score: the sum over constraints T of `1 / (max(1, (t / p)^a) · L)`.

    All spaces are judged by the same draws (common random numbers): draw n is a resolution and, for every stage, a
    place between 0 and 1 in whichever table the space selects. Drawing once makes a score hundreds of times cheaper,
    and two spaces then differ by their tables, not by luck. A scorer reuses its buffers, so give each thread its own.

    Args:
        lut_dir: folder of the block look-up tables.
        superspace: itself or its name.
        latency_constraints_ms: one or more latency bounds T, or `Limit`s of other kinds or of several: p then counts
            the subnets within all of them.
        fixed_latency_ms: latency in ms of the stages outside the tables (first_conv, stage0 and head, at their
            smallest); a number, or one per block resolution. Without a latency bound, no latency is looked at.
        t: the probability from which on more of it does not count.
        a: weight of the probability.
        samples: number of draws.
        seed: their seed.
        cache_dir: where the parsed tables are kept, see `BlockLut.load`.
        command: what makes the tables, for messages.

    Raises:
        ConfigError: the superspace or a number is wrong.
        MissingArtifactError, TableError: tables are missing or malformed, or `fixed_latency_ms` lacks a resolution.
        ConstraintError: no subnet of any space meets one of the constraints.
    """

    def __init__(
        self,
        lut_dir: Path | str,
        superspace: Superspace | str,
        latency_constraints_ms: float | Limit | Sequence[float | Limit],
        fixed_latency_ms: float | Mapping[int, float],
        t: float = 0.08,
        a: float = 0.01,
        samples: int = 100_000,
        seed: int = 0,
        *,
        cache_dir: Path | None = None,
        command: str = "",
    ) -> None:
        self.superspace = description.superspace(superspace) if isinstance(superspace, str) else superspace
        asked = (
            [latency_constraints_ms]
            if isinstance(latency_constraints_ms, float | int | Limit)
            else latency_constraints_ms
        )
        self.limits = tuple(it if isinstance(it, Limit) else Limit.of({"ms": it}) for it in asked)
        _check_settings(self.limits, t, a, samples)
        self.t = t
        self.a = a
        self.samples = samples
        self.seed = seed
        kinds = kinds_of(self.limits)
        fixed = fixed_latency_ms if "ms" in kinds else 0.0
        self.fixed_latency_ms = _per_resolution(fixed, self.superspace.block_resolutions)
        lut = BlockLut.load(lut_dir, self.superspace, cache_dir, command)
        self._lut = lut.with_latencies() if "ms" in kinds else lut.without_latencies()
        self._demands = RowDemands.load(lut_dir, self.superspace, [kind for kind in kinds if kind != "ms"])
        self._extremes = {
            key: np.array([[part.latency_ms.min() for part in parts], [part.latency_ms.max() for part in parts]])
            for key, parts in self._lut.samples.items()
        }
        for limit in self.limits:
            self._require(limit)
        self._sampled = self._sample(0, lut_keys(self.superspace))

    def _require(self, limit: Limit) -> None:
        """Raise a `ConstraintError` where no subnet of any space is within one kind of a limit."""
        space, fastest = self.superspace.name, self.latency_range_ms()[0]
        if limit.ms is not None and limit.ms < fastest:
            raise ConstraintError(
                f"latency_constraint {limit.ms:g} ms: no subnet of {space} is that fast, "
                f"the fastest takes {fastest:.4g} ms; allow at least that"
            )
        for kind, most in limit.demands.items():
            if most < self._demands.range(kind, lut_keys(self.superspace))[0]:
                least, of = self._demands.least(kind)
                raise ConstraintError(
                    f"{SETTINGS[kind]} = {most:g}: no sampled subnet of {space} takes so few {UNITS[kind]}; the least "
                    f"is {least:.4g}, with {of}; allow at least that"
                )

    @property
    def constraints_ms(self) -> tuple[float, ...]:
        """The latency bounds in ms."""
        return tuple(limit.ms for limit in self.limits if limit.ms is not None)

    def score(self, member: SpaceMember | str) -> Quality:
        """Score a space of the superspace, given as itself or as text (`onnxw-151122-023231`)."""
        return self._quality(self._sampled, self._keys(member))

    def fresh_scores(self, member: SpaceMember | str, replicates: int = 32) -> FloatArray:
        """Score a space on independent sets of draws.

        Their mean is an honest score of a space that a search chose: on the draws it was chosen by, it is also lucky.
        Their standard deviation is the standard error of its `score`.
        """
        keys = list(self._keys(member))
        return np.array([self._quality(self._sample(n, keys), keys).score for n in range(1, replicates + 1)])

    def bound(self, choices: Iterable[tuple[LutKey, ...]]) -> float:
        """Compute a score that no space exceeds whose key in every stage is one of that stage's `choices`."""
        found = self._sampled.bounds(choices, self.limits, TOP)
        return sum(self._greatest_score(met, losses) for met, losses in found)

    def _greatest_score(self, met: int, losses: FloatArray) -> float:
        """The greatest score of one constraint where at most `met` draws are within it, of at least these losses."""
        if not met:
            return qt_score(EPSILON, NO_SUBNET_LOSS, self.t, self.a)
        # A space within the constraint in fewer than `TOP` draws has a mean of fewer losses, but also a smaller p.
        counts = np.arange(1, len(losses) + 1)
        means = np.cumsum(losses, dtype=np.float64) / (counts + EPSILON)
        probabilities = counts / self.samples + EPSILON
        probabilities[-1] = met / self.samples + EPSILON
        return float((1.0 / (np.maximum(1.0, (self.t / probabilities) ** self.a) * means)).max())

    def sampled(self, member: SpaceMember | str) -> LutSamples:
        """Return losses and latencies in ms of a space's sampled subnets."""
        return self._sampled.totals(self._keys(member))

    def sampled_demand(self, kind: Demand, member: SpaceMember | str) -> FloatArray:
        """Return what a space's sampled subnets demand of a kind that is limited, in the order of `sampled`."""
        return self._sampled.demand(kind, self._keys(member))

    def demand_range(self, kind: Demand, member: SpaceMember | str) -> tuple[float, float]:
        """Tell between which bounds a demand of the subnets of a space lies that its tables can compose."""
        return self._demands.range(kind, self._keys(member))

    def latency_range_ms(self, member: SpaceMember | str | None = None) -> tuple[float, float]:
        """Tell the latencies in ms of the fastest and the slowest subnet of a space, or of any space.

        All count that its tables can compose.
        """
        stages: dict[int, list[FloatArray]] = defaultdict(list)
        for key in lut_keys(self.superspace) if member is None else self._keys(member):
            stages[key.stage].append(self._extremes[key])
        fastest = sum(np.min([low for low, _ in extremes], axis=0) for extremes in stages.values())
        slowest = sum(np.max([high for _, high in extremes], axis=0) for extremes in stages.values())
        fixed = np.array(self.fixed_latency_ms)
        return float((fastest + fixed).min()), float((slowest + fixed).max())

    def _keys(self, member: SpaceMember | str) -> Iterator[LutKey]:
        if isinstance(member, str) or member.superspace is not self.superspace:
            member = description.parse_space(str(member), within=self.superspace)
        return map(LutKey, range(len(member.blocks)), member.blocks, member.windows)

    def _sample(self, replicate: int, keys: Iterable[LutKey]) -> SampledLut:
        rng = np.random.default_rng([self.seed, replicate])
        places = Places(rng, self.samples, len(self.superspace.searched), len(self.fixed_latency_ms))
        most_ms = max(map(bound_ms, self.limits))
        return SampledLut(self._lut, list(keys), places, self.fixed_latency_ms, most_ms, self._demands)

    def _quality(self, sampled: SampledLut, keys: Iterable[LutKey]) -> Quality:
        parts = []
        found = sampled.best(keys, self.limits, TOP)
        for limit, (met, losses) in zip(self.limits, found, strict=True):
            probability = met / self.samples + EPSILON
            loss = float(losses.sum(dtype=np.float64)) / (len(losses) + EPSILON) if met else NO_SUBNET_LOSS
            score = qt_score(probability, loss, self.t, self.a)
            parts.append(ConstraintQuality(limit, score, probability, loss))
        return Quality(
            score=sum(part.score for part in parts),
            probability=sum(part.probability for part in parts) / len(parts),
            loss=sum(part.loss for part in parts) / len(parts),
            per_constraint=tuple(parts),
        )


def _check_settings(limits: Sequence[Limit], t: float, a: float, samples: int) -> None:
    if not limits:
        raise ConfigError("latency_constraint is empty; give one or more latencies in ms")
    for kind, most in (bound for limit in limits for bound in limit.most):
        if not 0.0 < most < math.inf:
            raise ConfigError(f"{SETTINGS[kind]} {most} must be a positive number of {UNITS[kind]}")
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
