"""The platform of those who limit anything but latency: it knows none."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spaceevo.artifacts.values import Name
from spaceevo.errors import TableError
from spaceevo.latency.table import LatencyTable
from spaceevo.platforms.base import Platform
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import PlacedBlock
from spaceevo.space.superspace import SpaceMember, Superspace


class NoPlatform(Platform):
    """Lets look-up tables be made without latencies; whatever needs one is refused."""

    knows_latencies = False

    def __init__(self, name: Name) -> None:
        super().__init__(name, "")

    def require_latencies(self) -> None:
        """Refuse."""
        raise self._unknown()

    def known_table(self) -> LatencyTable:
        """Return an empty table."""
        return LatencyTable()

    def rows_ms(self, rows: Sequence[Sequence[PlacedBlock]]) -> list[float]:
        """Return nan for each row."""
        return [math.nan] * len(rows)

    def subnets_ms(self, member: SpaceMember, specs: Sequence[SubnetSpec]) -> NDArray[np.float64]:
        """Refuse."""
        raise self._unknown()

    def fastest(self, member: SpaceMember) -> SubnetSpec | None:
        """Refuse."""
        raise self._unknown()

    def fixed_ms(self, superspace: Superspace) -> dict[int, float]:
        """Refuse."""
        raise self._unknown()

    def _unknown(self) -> TableError:
        return TableError(
            f"platform={self.name} knows no latencies; limit something else (limit.mmacs, limit.mparams, "
            "limit.file_kb, limit.peak_ram_kb) and leave latency_constraint out, or take another platform"
        )
