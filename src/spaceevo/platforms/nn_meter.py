"""Predicts by a package registered with nn-Meter."""

import hashlib
import pickle
from collections.abc import Iterable
from pathlib import Path

from spaceevo.artifacts.values import Name
from spaceevo.errors import ConfigError
from spaceevo.latency.nn_meter import blocks_ms, load_predictors, register_package
from spaceevo.latency.predictor import FixedLatency
from spaceevo.latency.table import LatencyTable
from spaceevo.platforms.base import Platform, TableState
from spaceevo.space.placement import PlacedBlock


class NnMeter(Platform):
    """Predicts blocks as sums of nn-Meter's kernel predictors; further arguments are as `Platform`'s.

    Args:
        state: folder for nn-Meter's settings and data.
        predictor: name of a registered predictor.
        package: `meta.yaml` of a package, which is registered first, instead.
    """

    unknown_choices = ("error",)

    def __init__(
        self,
        name: Name,
        state: str,
        predictor: Name | None = None,
        package: str | None = None,
        fixed_latency_ms: FixedLatency = None,
    ) -> None:
        folder = Path(state).expanduser()
        if package is not None:
            predictor = register_package(Path(package), folder)
        if predictor is None:
            raise ConfigError("platform=nn_meter needs platform.predictor=<registered name> or platform.package=<file>")
        self.package = predictor
        self.kernels = load_predictors(predictor, folder)
        super().__init__(name, predictor, fixed_latency_ms)

    def known_table(self) -> LatencyTable:
        """Begin with an empty table: blocks are predicted when asked for."""
        return LatencyTable()

    def ensure(self, blocks: Iterable[PlacedBlock]) -> None:
        """Predict the blocks not met before."""
        self.predictor.table.entries |= blocks_ms(self.kernels, self.predictor.missing(blocks), self.package)

    def table_state(self, entries: int | None = None) -> TableState:
        """Describe the package's kernel predictors; entries follow from them and do not count."""
        predictors = pickle.dumps(sorted(self.kernels.items()))
        return {"entries": 0, "digest": hashlib.sha256(predictors).hexdigest()[:16]}
