"""Predicts by a package registered with nn-Meter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spaceevo.errors import ConfigError
from spaceevo.latency.nn_meter import blocks_ms, load_predictors, register_package
from spaceevo.latency.predictor import FixedLatency
from spaceevo.latency.table import LatencyTable
from spaceevo.platforms.base import Platform
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.placement import PlacedBlock, subnet_blocks
from spaceevo.space.superspace import SpaceMember


class NnMeter(Platform):
    """Predicts blocks as sums of nn-Meter's kernel predictors.

    Args:
        name: name of the platform.
        state: folder for nn-Meter's settings and data.
        predictor: name of a registered predictor.
        package: `meta.yaml` of a package, which is registered first, instead.
        fixed_latency_ms: ms of first_conv, stage0 and head, instead of predicting them.
    """

    unknown_choices = ("error",)

    def __init__(
        self,
        name: str,
        state: str,
        predictor: str | None = None,
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
        """Predict the blocks not met before.

        Raises:
            TableError: the package lacks a kernel's predictor.
        """
        missing = self.predictor.missing(blocks)
        self.predictor.table.entries |= blocks_ms(self.kernels, missing, self.package)

    def subnets_ms(self, member: SpaceMember, specs: Sequence[SubnetSpec]) -> NDArray[np.float64]:
        """Predict the latency of subnets in ms, `(N,)`.

        Raises:
            EncodingError: one is not a subnet of `member`.
            TableError: the package lacks a kernel's predictor.
        """
        for spec in specs:
            member.validate(spec)
        self.ensure(block for spec in specs for block in subnet_blocks(member, spec))
        return super().subnets_ms(member, specs)
