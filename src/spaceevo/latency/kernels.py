"""Shows blocks as nn-Meter sees them: kernels with features in its order, and a cost model of them that it can load.

Feature orders are nn-Meter's: convolutions `[hw, cin, cout, k, stride, MFLOPs, MParams]`, fc `[cin, cout, MFLOPs,
MParams]`, se, hswish, swish and pooling `[hw, c]`, resnet-se `[hw, c, squeeze]`, add and addrelu `[hw, c, c]`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spaceevo.errors import TableError
from spaceevo.latency.roofline import fit_costs
from spaceevo.space.blocks import block_type
from spaceevo.space.placement import PlacedBlock
from spaceevo.space.spec import BlockSpec, Layer
from spaceevo.space.walk import PlacedLayer, placed_layers

Array = NDArray[np.float64]


class Kernel(NamedTuple):
    """Names a kernel of nn-Meter, with its features in nn-Meter's order."""

    name: str
    features: tuple[float, ...]


@lru_cache(maxsize=1 << 18)
def kernels_of(spec: BlockSpec, hw: int) -> tuple[Kernel, ...]:
    """List the kernels of a block for an input of height and width `hw`, in order.

    A ReLU belongs to its convolution or sum; hswish and swish are kernels of their own; squeeze-and-excitation is one.
    """
    layers = {placed.name: placed for placed in placed_layers(spec, hw).layers}
    gates = {name: _gate_of(layers, placed) for name, placed in layers.items() if placed.layer.kind == "mul"}
    in_gates = {placed.name for gate in gates.values() for placed in gate}
    found: list[Kernel] = []
    for name, placed in layers.items():
        if name in gates:
            where = (placed.hw, placed.layer.cout)
            squeezed = gates[name][1].layer.cout
            own = block_type(spec.type).squeezes_own_channels
            found.append(Kernel("se", where) if own else Kernel("resnet-se", (*where, squeezed)))
        elif name not in in_gates:
            found.extend(_layer_kernels(placed.layer, placed.hw))
    return tuple(found)


def _gate_of(layers: Mapping[str, PlacedLayer], product: PlacedLayer) -> list[PlacedLayer]:
    """Find the squeeze-and-excitation that makes a product's second input of its first: pool, reduce, expand."""
    scaled, name = product.sources
    way: list[PlacedLayer] = []
    while name != scaled and name in layers:
        way.insert(0, layers[name])
        name = way[0].sources[0]
    if name != scaled or [placed.layer.kind for placed in way] != ["pool", "conv", "conv"]:
        raise TableError(f"layer {product.name}: nn-Meter knows products only at the end of squeeze-and-excitation")
    return way


def _layer_kernels(layer: Layer, hw: int) -> Iterator[Kernel]:
    match layer.kind:
        case "pool":
            yield Kernel("global-avgpool", (hw, layer.cin))
        case "linear":
            flops = (2 * layer.cin + 1) * layer.cout
            yield Kernel("fc", (layer.cin, layer.cout, flops / 2e6, flops / 1e6))
        case "conv" | "depthwise":
            yield from _conv_kernels(layer, hw)
        case "add":
            yield Kernel("addrelu" if layer.act.startswith("relu") else "add", (hw, layer.cout, layer.cout))
    if layer.act in ("hswish", "swish"):
        yield Kernel(layer.act, (layer.output_hw(hw), layer.cout))


def _conv_kernels(layer: Layer, hw: int) -> Iterator[Kernel]:
    name = "dwconv-bn-relu" if layer.kind == "depthwise" else "conv-bn-relu"
    params = (layer.kernel**2 * layer.weight_shape[1] + 1) * layer.cout
    for index in range(layer.stack):
        size, stride = (hw, layer.stride) if index == 0 else (layer.output_hw(hw), 1)
        mflops = params * (size / stride) ** 2 / 1e6
        yield Kernel(name, (size, layer.cin, layer.cout, layer.kernel, stride, mflops, params / 1e6))


def _work(name: str, features: Array) -> Array:
    """Count what kernels `(N, features)` compute and move, `(N, kinds)`: their latency is a non-negative sum of it."""
    one = np.ones(len(features))
    if name in ("conv-bn-relu", "dwconv-bn-relu"):
        hw, cin, cout, k, stride, mflops, mparams = features.T
        outputs, inputs = (hw / stride) ** 2 * cout / 1e6, hw**2 * cin / 1e6
        gathered = (hw / stride) ** 2 * k**2 * np.where(k > 1, cin, 0) / 1e6
        is_dense = k > 1
        return np.column_stack(
            [one, mflops * is_dense, mflops * ~is_dense, mparams, np.maximum(mparams - 1, 0), outputs, inputs, gathered]
        )
    if name == "fc":
        return np.column_stack([one, features[:, 2]])
    hw, channels = features[:, 0], features[:, 1]
    columns = [one, hw**2 * channels / 1e6, channels / 1e6]
    if name in ("se", "resnet-se"):
        squeezed = features[:, 2] if name == "resnet-se" else channels / 4
        columns.append(channels * squeezed / 1e6)
    return np.column_stack(columns)


@dataclass(frozen=True)
class KernelCosts:
    """Predicts one kernel as nn-Meter asks for it, by costs in ms per kind of work in the order of this module."""

    name: str
    costs: Sequence[float]

    def predict(self, features: Sequence[Sequence[float]]) -> Array:
        """Predict the latency in ms of kernels with these features `(N, features)`."""
        found: Array = _work(self.name, np.asarray(features, np.float64)) @ np.asarray(self.costs)
        return found


def fit_kernels(blocks: Sequence[PlacedBlock], latency_ms: Sequence[float]) -> dict[str, KernelCosts]:
    """Fit kernel predictors whose sums are nearest to measured blocks, in relative error."""
    works = [defaultdict[tuple[str, int], float](float) for _ in blocks]
    for work, block in zip(works, blocks, strict=True):
        for name, features in kernels_of(*block):
            for kind, amount in enumerate(_work(name, np.array([features]))[0]):
                work[name, kind] += amount
    by_kernel = defaultdict[str, list[float]](list)
    for (name, _), cost in fit_costs(works, latency_ms).items():
        by_kernel[name].append(cost)
    return {name: KernelCosts(name, found) for name, found in by_kernel.items()}
