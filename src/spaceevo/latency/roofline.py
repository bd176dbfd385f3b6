"""Models block latency: what a block computes and moves, times fitted non-negative costs, a set for each family.

In networks weights come from far memory, while a block measured alone finds them in cache; two more terms correct that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, assert_never

import numpy as np

from spaceevo.errors import TableError, choices
from spaceevo.space.cost import block_macs_and_params
from spaceevo.space.placement import PlacedBlock
from spaceevo.space.spec import BlockSpec, Layer
from spaceevo.space.walk import placed_layers

Kind = TypeVar("Kind", str, tuple[str, int])
TILE = (16, 64, 16)
"""Output positions, inputs and outputs that integer matrix units take at a time; a started tile costs a whole one."""
CACHED_WEIGHTS = 1_000_000
"""Weights of one layer beyond this do not stay in a core's cache (1 to 2 MB) from one inference to the next."""
KINDS = {f"{kind}_{of}" for kind in ("dense", "pointwise", "vector") for of in ("mmacs", "tiled_mmacs")}
KINDS |= {"constant", "layers", "weights", "far_weights", "inputs", "outputs", "gathered", "gathered_taps"}
KINDS |= {"strided", "strided_layers", "depthwise_mmacs", "depthwise_outputs", "depthwise_taps"}
KINDS |= {"pooled", "pooled_channels", "joined", "gated"}
"""Every kind of work that `block_work` counts."""


def family_of(spec: BlockSpec) -> str:
    """Name the family of a block, which shares its costs: type and activation."""
    return f"{spec.type} {spec.act}"


@lru_cache(maxsize=1 << 18)
def block_work(spec: BlockSpec, hw: int) -> Mapping[str, float]:
    """Count what a block computes and moves, in millions, for an input of height and width `hw`; counts as such."""
    work = defaultdict[str, float](float, constant=1.0)
    for placed in placed_layers(spec, hw).layers:
        for key, value in _layer_work(placed.layer, placed.hw).items():
            work[key] += value
    return dict(work)


def _layer_work(layer: Layer, hw: int) -> dict[str, float]:
    positions = layer.output_hw(hw) ** 2
    outputs_m = positions * layer.cout / 1e6
    match layer.kind:
        case "conv" | "linear":
            work = _conv_work(layer, positions)
        case "depthwise":
            taps = layer.kernel**2
            work = {
                "depthwise_mmacs": layer.stack * taps * outputs_m,
                "depthwise_outputs": layer.stack * outputs_m,
                "depthwise_taps": layer.stack * taps * positions / 1e6,
                "layers": layer.stack,
            }
        case "pool":
            work = {"pooled": hw * hw * layer.cin / 1e6, "pooled_channels": layer.cin / 1e6, "layers": 1}
        case "add" | "mul":
            work = {"joined": outputs_m, "layers": 1}
        case unknown:
            assert_never(unknown)
    if layer.act in ("hswish", "swish"):
        work |= {"gated": outputs_m, "layers": work["layers"] + 2}
    return work


def _conv_work(layer: Layer, positions: int) -> dict[str, float]:
    fan_in = layer.kernel**2 * layer.cin
    kind = "dense" if layer.kernel > 1 else "vector" if positions == 1 else "pointwise"
    weights = fan_in * layer.cout
    sizes = zip((positions, fan_in, layer.cout), TILE, strict=True)
    work = {
        f"{kind}_mmacs": positions * weights / 1e6,
        f"{kind}_tiled_mmacs": float(np.prod([-(-size // tile) * tile for size, tile in sizes])) / 1e6,
        "weights": weights / 1e6,
        "far_weights": max(0, weights - CACHED_WEIGHTS) / 1e6,
        "outputs": positions * layer.cout / 1e6,
        "layers": 1,
    }
    if layer.kernel > 1:
        work |= {"gathered": positions * fan_in / 1e6, "gathered_taps": positions * layer.kernel**2 / 1e6}
    else:
        work["inputs"] = positions * fan_in / 1e6
    if layer.stride > 1:
        work |= {"strided_layers": 1, "strided": positions * layer.cin / 1e6}
    return work


def fit_costs(works: Sequence[Mapping[Kind, float]], latency_ms: Sequence[float]) -> dict[Kind, float]:
    """Find the non-negative costs of each kind of work that minimise the squared relative error of latencies."""
    from scipy.optimize import nnls  # tables are read and used without it

    kinds = sorted({kind for work in works for kind in work})
    features = np.array([[work.get(kind, 0.0) for kind in kinds] for work in works], np.float64)
    scaled = features / np.asarray(latency_ms, np.float64)[:, None]
    costs = nnls(scaled, np.ones(len(scaled)), maxiter=1000 * len(kinds))[0]
    return dict(zip(kinds, costs.tolist(), strict=True))


SHARED_FROM = 5_000
"""Blocks, spread over those measured, from which costs common to all families are found: kinds of work are some 20."""


def shared_costs(blocks: Sequence[PlacedBlock], latency_ms: Sequence[float]) -> dict[str, float]:
    """Find costs that all families have in common, for a family of which no block was measured."""
    step = max(1, len(blocks) // SHARED_FROM)
    return fit_costs([block_work(*block) for block in blocks[::step]], latency_ms[::step])


def unmeasured_errors(blocks: Sequence[PlacedBlock], latency_ms: Sequence[float]) -> dict[str, float]:
    """Tell by family the median relative error of costs found without it: how far others are off for it."""
    step = max(1, len(blocks) // SHARED_FROM)
    works, truth = [block_work(*block) for block in blocks[::step]], np.asarray(latency_ms, np.float64)[::step]
    families = np.array([family_of(spec) for spec, _ in blocks[::step]])
    found: dict[str, float] = {}
    for family in sorted(set(families)) if len(set(families)) > 1 else ():
        others, own = np.flatnonzero(families != family), np.flatnonzero(families == family)
        costs = fit_costs([works[i] for i in others], truth[others].tolist())
        predicted = [sum(costs.get(kind, 0.0) * count for kind, count in works[i].items()) for i in own]
        found[str(family)] = float(np.median(np.abs(np.array(predicted) / truth[own] - 1)))
    return found


@dataclass(frozen=True)
class Roofline:
    """Predicts blocks from costs in ms by family and kind of work."""

    costs: Mapping[str, Mapping[str, float]]

    @classmethod
    def fit(cls, blocks: Sequence[PlacedBlock], latency_ms: Sequence[float]) -> Roofline:
        """Fit the relative error of measured blocks, family by family."""
        families = defaultdict[str, list[int]](list)
        for index, (spec, _) in enumerate(blocks):
            families[family_of(spec)].append(index)
        costs: dict[str, dict[str, float]] = {}
        for family, members in families.items():
            found = fit_costs([block_work(*blocks[index]) for index in members], [latency_ms[i] for i in members])
            costs[family] = {kind: float(f"{cost:.6g}") for kind, cost in found.items() if cost > 0}
        return cls(costs)

    def with_families(self, families: Iterable[str], shared: Mapping[str, float]) -> Roofline:
        """Let families of which no block was measured cost what is `shared` by those measured."""
        costs = {kind: float(f"{cost:.6g}") for kind, cost in shared.items() if cost > 0}
        return Roofline({**dict.fromkeys(families, costs), **self.costs})

    def scaled(self, factors: Mapping[str, float]) -> Roofline:
        """Multiply each family's costs by its factor."""
        return Roofline(
            {
                family: {kind: float(f"{cost * factors[family]:.6g}") for kind, cost in costs.items()}
                for family, costs in self.costs.items()
            }
        )

    def knows(self, spec: BlockSpec) -> bool:
        """Tell whether blocks of this family were measured, or are taken to cost what others do."""
        return family_of(spec) in self.costs

    def block_ms(self, spec: BlockSpec, hw: int) -> float:
        """Predict the latency in ms of a block by itself; raises `TableError` where none of its family was measured."""
        if not self.knows(spec):
            raise TableError(f"no block of the family '{family_of(spec)}' was measured; known: {choices(self.costs)}")
        work = block_work(spec, hw)
        return sum(cost * work.get(kind, 0.0) for kind, cost in self.costs[family_of(spec)].items())


@dataclass(frozen=True)
class Correction:
    """Corrects blocks by themselves to blocks within a network: `scale · ms + ms_per_mparam · MParams`."""

    scale: float = 1.0
    ms_per_mparam: float = 0.0

    @classmethod
    def fit(cls, sums_ms: Sequence[float], mparams: Sequence[float], latency_ms: Sequence[float]) -> Correction:
        """Fit the relative error of networks' measured latencies to their blocks' sums and their parameters."""
        works = [{"scale": ms, "ms_per_mparam": count} for ms, count in zip(sums_ms, mparams, strict=True)]
        return cls(**{name: float(f"{cost:.6g}") for name, cost in fit_costs(works, latency_ms).items()})

    def block_ms(self, alone_ms: float, spec: BlockSpec, hw: int) -> float:
        """Compute the latency in ms that a block adds to a network."""
        return self.scale * alone_ms + self.ms_per_mparam * block_macs_and_params(spec, hw)[1] / 1e6


def mparams_of(blocks: Iterable[PlacedBlock]) -> float:
    """Count the parameters of blocks in millions."""
    return sum(block_macs_and_params(*block)[1] for block in blocks) / 1e6
