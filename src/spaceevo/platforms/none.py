"""The platform of those who limit anything but latency: it knows none."""

import math
from collections.abc import Sequence

from spaceevo.artifacts.values import Name
from spaceevo.latency.table import LatencyTable
from spaceevo.platforms.base import Platform
from spaceevo.space.placement import PlacedBlock


class NoPlatform(Platform):
    """Lets look-up tables be made without latencies; whatever needs one is refused."""

    knows_latencies = False

    def __init__(self, name: Name) -> None:
        super().__init__(name, "")

    def known_table(self) -> LatencyTable:
        """Return an empty table."""
        return LatencyTable()

    def rows_ms(self, rows: Sequence[Sequence[PlacedBlock]]) -> list[float]:
        """Return nan for each row."""
        return [math.nan] * len(rows)
