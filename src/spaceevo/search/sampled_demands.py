"""What the subnets sampled for all spaces demand besides time, and which of them break a limit."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from spaceevo.search.demands import SHARES, demand
from spaceevo.search.limits import Demand
from spaceevo.search.lut import FloatArray, LutKey
from spaceevo.search.row_demands import RowDemands


class SampledDemands:
    """Knows what the sampled subnets demand besides time, for any choice of a key per stage.

    Args:
        demands: shares of the rows of the tables.
        orders: in which order the rows of each table are joined, by resolution.
        rows: row of each draw in the joined tables, `(keys, draws)`.
    """

    def __init__(
        self,
        demands: RowDemands,
        orders: Mapping[LutKey, Sequence[npt.NDArray[np.intp]]],
        rows: npt.NDArray[np.unsignedinteger],
    ) -> None:
        self._shares = {
            kind: {key: demands.joined(kind, key, order)[:, rows[n]] for n, (key, order) in enumerate(orders.items())}
            for kind in demands.rows
        }
        self._envelopes: dict[tuple[Demand, tuple[LutKey, ...]], FloatArray] = {}

    def total(self, kind: Demand, choices: Sequence[tuple[LutKey, ...]]) -> FloatArray:
        """Compute a demand of every draw, or no more where a stage may take any of several keys."""
        stages = [self._envelope(kind, keys) for keys in choices]
        joined = [share.join(np.stack([stage[n] for stage in stages])) for n, share in enumerate(SHARES[kind])]
        return demand(kind, joined).astype(np.float32, copy=False)

    def outside(self, choices: Sequence[tuple[LutKey, ...]], most: Mapping[Demand, float]) -> npt.NDArray[np.bool_]:
        """Tell which draws break one of these limits, or break them in whatever key each stage takes."""
        broken = [self.total(kind, choices) > bound for kind, bound in most.items()]
        found: npt.NDArray[np.bool_] = np.logical_or.reduce(broken)
        return found

    def _envelope(self, kind: Demand, keys: tuple[LutKey, ...]) -> FloatArray:
        """The least shares of several choices, in every draw."""
        if len(keys) == 1:
            return self._shares[kind][keys[0]]
        if (kind, keys) not in self._envelopes:
            self._envelopes[kind, keys] = np.minimum.reduce([self._shares[kind][key] for key in keys])
        return self._envelopes[kind, keys]
