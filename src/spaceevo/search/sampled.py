"""Subnets sampled once for all spaces: their losses and latencies, and the best of those that a device runs in time.

Adding up 100,000 losses and latencies over six stages takes as long as memory takes to deliver them. So every figure
is also kept in 16 bits, as a number of ticks rounded down. Sums of ticks tell all but a few draws apart; those few are
added up exactly, so that no result depends on the ticks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spaceevo.search.limits import Demand, Limit
from spaceevo.search.lut import BlockLut, FloatArray, LutKey, LutSamples
from spaceevo.search.row_demands import RowDemands
from spaceevo.search.sampled_demands import SampledDemands

IndexArray = npt.NDArray[np.intp]
Ticks = npt.NDArray[np.uint16]
Rows = npt.NDArray[np.unsignedinteger]

LOSS, LATENCY = 0, 1
LATENCY_TICKS = 2**15 - 1
LOSS_TICKS = 2**16 - 2
TOO_SLOW = np.uint16(2**16 - 1)
SLACK = 1  # Ticks that rounding of floats may cost, on top of one per stage for rounding down
FEW = 1000  # Draws within a constraint up to which each is looked at
NO_LIMIT_MS = 1e9  # Of latency where it is not limited
GROUP = 50  # Draws of which the least loss stands for all when the best are sought


class Places:
    """Holds draws as places between 0 and 1 in whichever tables a space selects, grouped by resolution.

    A draw has an independent place in each searched stage, and one resolution for all of them.
    """

    def __init__(self, rng: np.random.Generator, samples: int, stages: int, resolutions: int) -> None:
        counts = np.full(resolutions, samples // resolutions)
        # Equal counts, the remainder at random: every draw has every resolution with equal chance.
        counts[rng.permutation(resolutions)[: samples % resolutions]] += 1
        self.samples = samples
        self._resolution = np.repeat(np.arange(resolutions), counts)
        self._places = rng.random((stages, samples), dtype=np.float32)

    def rows(self, stage: int, counts: Sequence[int]) -> Rows:
        """Find every draw's row in the joined tables of a choice, which have `counts` rows per resolution."""
        sizes = np.array(counts, dtype=np.float32)[self._resolution]
        rows: Rows = (self._places[stage] * sizes).astype(np.uint32)
        # A place just below 1 may round up to the next table.
        np.minimum(rows, sizes.astype(np.uint32) - np.uint32(1), out=rows)
        rows += np.cumsum([0, *counts[:-1]]).astype(np.uint32)[self._resolution]
        return rows


@dataclass(frozen=True)
class _Scale:
    """Figures of the stages as ticks: `floors[stage] + ticks · tick`, at most `most` ticks a stage."""

    floors: tuple[float, ...]
    tick: float
    most: int

    @classmethod
    def of(cls, tables: Mapping[LutKey, LutSamples], column: int, stages: int, limit_ms: float = np.inf) -> _Scale:
        """The scale of a column.

        With a limit, a stage that alone uses up what it leaves gets so many ticks that its sum is above the limit;
        without one, sums reach up to the greatest possible.
        """
        values = [[table[column] for key, table in tables.items() if key.stage == stage] for stage in range(stages)]
        least = [float(min(map(np.min, of_stage))) for of_stage in values]
        greatest = sum(float(max(map(np.max, of_stage))) for of_stage in values)
        most = LOSS_TICKS if limit_ms == np.inf else LATENCY_TICKS // stages
        steps = most if limit_ms == np.inf else most - 2 * SLACK
        return cls(tuple(least), max(min(limit_ms, greatest) - sum(least), 1e-6) / steps, most)

    def ticks(self, stage: int, values: FloatArray) -> Ticks:
        """The figures of a stage, rounded down."""
        return np.minimum((values.astype(np.float64) - self.floors[stage]) / self.tick, self.most).astype(np.uint16)


class SampledLut:
    """Knows losses and latencies of the sampled subnets, for any choice of a key per stage.

    Args:
        lut: the look-up tables.
        keys: the choices to prepare.
        places: the draws.
        fixed_latency_ms: latency in ms of the stages outside the tables, per resolution.
        limit_ms: greatest latency constraint in ms that will be asked for.
        demands: what the rows of the tables demand besides time.
    """

    def __init__(
        self,
        lut: BlockLut,
        keys: Iterable[LutKey],
        places: Places,
        fixed_latency_ms: Sequence[float],
        limit_ms: float,
        demands: RowDemands | None = None,
    ) -> None:
        orders = {key: [np.argsort(part.loss, kind="stable") for part in lut.samples[key]] for key in keys}
        tables = {
            key: _joined(lut.samples[key], order, fixed_latency_ms if key.stage == 0 else None)
            for key, order in orders.items()
        }
        samples = places.samples
        self._option = {key: number for number, key in enumerate(tables)}
        self._stages = 1 + max(key.stage for key in tables)
        self._latency_scale = _Scale.of(tables, LATENCY, self._stages, limit_ms)
        self._loss_scale = _Scale.of(tables, LOSS, self._stages)
        self._loss, self._latency = np.empty((2, len(tables), samples), dtype=np.uint16)
        longest = max(len(table.loss) for table in tables.values())
        self._rows = np.empty((len(tables), samples), dtype=np.min_scalar_type(longest))
        self._figures = np.zeros((2, len(tables), longest), dtype=np.float32)
        for number, (key, table) in enumerate(tables.items()):
            rows = places.rows(key.stage, [len(part.loss) for part in lut.samples[key]])
            self._rows[number] = rows
            self._figures[:, number, : len(table.loss)] = table
            self._loss[number] = self._loss_scale.ticks(key.stage, table.loss)[rows]
            self._latency[number] = self._latency_scale.ticks(key.stage, table.latency_ms)[rows]
        # Fresh arrays of this size would cost more than the arithmetic: the system hands them out page by page.
        self._latency_sum, self._loss_sum, self._left = np.empty((3, samples), dtype=np.uint16)
        self._flags = np.empty(samples, dtype=bool)
        self._ranking = np.full(-(-samples // GROUP) * GROUP, TOO_SLOW)
        self._envelopes: dict[tuple[LutKey, ...], tuple[Ticks, Ticks]] = {}
        self._demands = None if demands is None else SampledDemands(demands, orders, self._rows)

    def best(self, keys: Iterable[LutKey], limits: Sequence[Limit], count: int) -> Iterator[tuple[int, FloatArray]]:
        """Tell for each limit how many draws are within it, and the `count` least losses of those, in any order.

        The losses are fewer than `count` where fewer draws are within the limit.
        """
        chosen = list(keys)
        options = self._options(chosen)
        _add_up([self._latency[option] for option in options], self._latency_sum)
        loss_known = False
        for limit in limits:
            limit_ms = bound_ms(limit)
            in_time = self._in_time(limit_ms)
            self._leave_out([(key,) for key in chosen], limit)
            met = int(np.count_nonzero(in_time))
            if met <= FEW:
                rows = self._rows_of(options, np.flatnonzero(in_time))
                rows = rows[:, self._total(options, rows, LATENCY) <= limit_ms]
                met = rows.shape[1]
            else:
                if not loss_known:
                    _add_up([self._loss[option] for option in options], self._loss_sum)
                    loss_known = True
                slow = self._too_slow(options, limit_ms)
                met -= len(slow)
                rows = self._rows_of(options, self._candidates(slow, count))
            losses = self._total(options, rows, LOSS)
            yield met, losses if len(losses) <= count else np.partition(losses, count - 1)[:count]

    def bounds(
        self, choices: Iterable[tuple[LutKey, ...]], limits: Sequence[Limit], count: int
    ) -> Iterator[tuple[int, FloatArray]]:
        """Tell what `best` may give at best where a stage may take any of several keys, in every draw another one.

        So for each limit, no fewer draws than are within it, and the `count` least losses or lower ones, in order.
        """
        open_keys = list(choices)
        envelopes = [self._envelope(keys) for keys in open_keys]
        _add_up([latency for latency, _ in envelopes], self._latency_sum)
        _add_up([loss for _, loss in envelopes], self._loss_sum)
        for limit in limits:
            in_time = self._in_time(bound_ms(limit))
            self._leave_out(open_keys, limit)
            met = int(np.count_nonzero(in_time))
            ticks = self._ranking[self._candidates(np.empty(0, dtype=np.intp), count)]
            least = np.sort(ticks)[:count].astype(np.float64) - SLACK
            yield met, (sum(self._loss_scale.floors) + least * self._loss_scale.tick).astype(np.float32)

    def _envelope(self, keys: tuple[LutKey, ...]) -> tuple[Ticks, Ticks]:
        """The least latency and the least loss of several choices, in every draw."""
        if len(keys) == 1:
            option = self._option[keys[0]]
            return self._latency[option], self._loss[option]
        if keys not in self._envelopes:
            options = self._options(keys)
            self._envelopes[keys] = self._latency[options].min(axis=0), self._loss[options].min(axis=0)
        return self._envelopes[keys]

    def totals(self, keys: Iterable[LutKey]) -> LutSamples:
        """Add up losses and latencies in ms of all draws."""
        options = self._options(keys)
        rows = self._rows[options]
        return LutSamples(self._total(options, rows, LOSS), self._total(options, rows, LATENCY))

    def _options(self, keys: Iterable[LutKey]) -> IndexArray:
        return np.array([self._option[key] for key in keys])

    def _rows_of(self, options: IndexArray, draws: IndexArray) -> Rows:
        """Rows of some draws in the tables of each stage."""
        return self._rows[options[:, np.newaxis], draws]

    def _total(self, options: IndexArray, rows: Rows, column: int) -> FloatArray:
        """Losses or latencies in ms of some draws, summed over stages."""
        total: FloatArray = self._figures[column, options[:, np.newaxis], rows].sum(axis=0)
        return total

    def _in_time(self, limit_ms: float) -> npt.NDArray[np.bool_]:
        """Which draws may be within the limit by their ticks; those they have left are then in `_left`."""
        ticks = (limit_ms - sum(self._latency_scale.floors)) / self._latency_scale.tick
        most = np.uint16(max(0.0, min(ticks + SLACK, self._latency_scale.most - 1)))
        # What slower draws have left wraps round to more than `most`.
        np.subtract(most, self._latency_sum, out=self._left)
        return np.less_equal(self._left, most, out=self._flags)

    def _leave_out(self, choices: Sequence[tuple[LutKey, ...]], limit: Limit) -> None:
        """Treat draws that break a limit of another kind as too slow."""
        if self._demands is not None and limit.demands:
            outside = self._demands.outside(choices, limit.demands)
            self._left[outside] = TOO_SLOW
            self._flags[outside] = False

    def demand(self, kind: Demand, keys: Iterable[LutKey]) -> FloatArray:
        """Compute what all draws demand of a kind besides time."""
        assert self._demands is not None
        return self._demands.total(kind, [(key,) for key in keys])

    def _too_slow(self, options: IndexArray, limit_ms: float) -> IndexArray:
        """Draws beyond the limit whose ticks are not."""
        unsure = np.flatnonzero(np.less_equal(self._left, self._stages + 2 * SLACK, out=self._flags))
        return unsure[self._total(options, self._rows_of(options, unsure), LATENCY) > limit_ms]

    def _candidates(self, slow: IndexArray, count: int) -> IndexArray:
        """Draws among which are the `count` best of those within the limit: those of the fewest ticks of loss."""
        signs = self._left.view(np.int16)
        np.right_shift(signs, 15, out=signs)  # all bits set where the draw is too slow
        np.bitwise_or(self._left, self._loss_sum, out=self._ranking[: len(signs)])
        self._ranking[slow] = TOO_SLOW
        # The `count`-th smallest of the minima of disjoint groups is no less than the `count`-th smallest of all.
        groups = self._ranking.reshape(GROUP, -1)
        minima = groups.min(axis=0)
        bound = LOSS_TICKS
        if len(minima) > count:
            bound = min(bound, int(np.partition(minima, count - 1)[count - 1]) + self._stages + SLACK)
        columns = np.flatnonzero(minima <= bound)
        row, column = np.nonzero(groups[:, columns] <= bound)
        return row * groups.shape[1] + columns[column]


def bound_ms(limit: Limit) -> float:
    """The latency in ms that a limit allows; more than any where it limits none."""
    return NO_LIMIT_MS if limit.ms is None else limit.ms


def _joined(
    parts: Sequence[LutSamples], orders: Sequence[IndexArray], fixed_latency_ms: Sequence[float] | None
) -> LutSamples:
    """The tables of all resolutions in one, each in order of loss."""
    # Where all tables are in one order, a draw that is lucky in one space is lucky in the others too: it cancels out.
    fixed = fixed_latency_ms or [0.0] * len(parts)
    return LutSamples(
        np.concatenate([part.loss[order] for part, order in zip(parts, orders, strict=True)]),
        np.concatenate([p.latency_ms[o] + np.float32(ms) for p, o, ms in zip(parts, orders, fixed, strict=True)]),
    )


def _add_up(stages: Sequence[Ticks], out: Ticks) -> None:
    """Sum over stages, without arrays in between."""
    np.add(stages[0], stages[1] if len(stages) > 1 else np.uint16(0), out=out)
    for ticks in stages[2:]:
        np.add(out, ticks, out=out)
