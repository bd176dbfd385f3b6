"""nn-Meter's view of blocks: kernels with features in its order, and a cost model of them that it can load.

Feature orders are nn-Meter's: convolutions `[hw, cin, cout, k, stride, MFLOPs, MParams]`, fc `[cin, cout, MFLOPs,
MParams]`, se, hswish, swish and pooling `[hw, c]`, resnet-se `[hw, c, squeeze]`, add and addrelu `[hw, c, c]`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spaceevo.latency.blocks import PlacedBlock
from spaceevo.latency.roofline import relative_nnls
from spaceevo.space.blocks import block_type
from spaceevo.space.cost import recipe_of
from spaceevo.space.spec import BlockSpec, Layer

Array = NDArray[np.float64]


class Kernel(NamedTuple):
    """One kernel: its name and its features in nn-Meter's order."""

    name: str
    features: tuple[float, ...]


@lru_cache(maxsize=1 << 18)
def kernels_of(spec: BlockSpec, hw: int) -> tuple[Kernel, ...]:
    """The kernels of a block for an input of height and width `hw`, in order.

    A ReLU belongs to its convolution or sum; hswish and swish are kernels of their own; squeeze-and-excitation is one.
    """
    recipe, found = recipe_of(spec), list[Kernel]()

    def run(name: str, /, *sizes: int) -> int:
        if name not in recipe:
            return sizes[0]
        layer = recipe[name]
        if name == "se_mul":
            found.append(_squeeze_excite(spec, layer, recipe["se_reduce"], sizes[0]))
        elif not name.startswith("se_"):
            found.extend(_layer_kernels(layer, sizes[0]))
        return layer.output_hw(sizes[0])

    block_type(spec.type).forward(run, hw)
    return tuple(found)


def _squeeze_excite(spec: BlockSpec, layer: Layer, reduce: Layer, hw: int) -> Kernel:
    # Only MobileNets squeeze to a quarter of the very channels that are scaled, so that these say it all.
    if spec.type.startswith("MobileNet"):
        return Kernel("se", (hw, layer.cout))
    return Kernel("resnet-se", (hw, layer.cout, reduce.cout))


def _layer_kernels(layer: Layer, hw: int) -> Iterable[Kernel]:
    output_hw = layer.output_hw(hw)
    if layer.kind == "pool":
        yield Kernel("global-avgpool", (hw, layer.cin))
    elif layer.kind == "linear":
        flops = (2 * layer.cin + 1) * layer.cout
        yield Kernel("fc", (layer.cin, layer.cout, flops / 2e6, flops / 1e6))
    elif layer.kind in ("conv", "depthwise"):
        name = "conv-bn-relu" if layer.kind == "conv" else "dwconv-bn-relu"
        fan_in = layer.weight_shape[1]
        for index in range(layer.stack):
            size, stride = (hw, layer.stride) if index == 0 else (output_hw, 1)
            params = (layer.kernel**2 * fan_in + 1) * layer.cout
            mflops = params * (size / stride) ** 2 / 1e6
            yield Kernel(name, (size, layer.cin, layer.cout, layer.kernel, stride, mflops, params / 1e6))
    else:
        yield Kernel("addrelu" if layer.act.startswith("relu") else layer.kind, (hw, layer.cout, layer.cout))
    if layer.act in ("hswish", "swish"):
        yield Kernel(layer.act, (output_hw, layer.cout))


def _work(name: str, features: Array) -> Array:
    """What kernels `(N, features)` compute and move, `(N, kinds)`: what their latency is a non-negative sum of."""
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


class KernelCosts:
    """Predictor of one kernel in the form nn-Meter calls: rows of features → ms.

    Args:
        name: of the kernel.
        costs: ms per kind of work, in the order of this module.
    """

    def __init__(self, name: str, costs: Sequence[float]) -> None:
        self.name = name
        self.costs = list(costs)

    def predict(self, features: Sequence[Sequence[float]]) -> Array:
        """Latency in ms of kernels with these features `(N, features)`."""
        found: Array = _work(self.name, np.asarray(features, np.float64)) @ np.asarray(self.costs)
        return found


def fit_kernels(blocks: Sequence[PlacedBlock], latency_ms: Sequence[float]) -> dict[str, KernelCosts]:
    """Kernel predictors whose sums fit measured blocks, in relative error."""
    columns = dict[tuple[str, int], int]()
    entries = defaultdict[tuple[int, int], float](float)
    for row, block in enumerate(blocks):
        for name, features in kernels_of(*block):
            for kind, amount in enumerate(_work(name, np.array([features]))[0]):
                entries[row, columns.setdefault((name, kind), len(columns))] += amount
    work = np.zeros((len(blocks), len(columns)))
    for place, amount in entries.items():
        work[place] = amount
    costs = relative_nnls(work, np.asarray(latency_ms, np.float64))
    by_kernel = defaultdict[str, list[float]](list)
    for (name, _), column in columns.items():
        by_kernel[name].append(float(costs[column]))
    return {name: KernelCosts(name, found) for name, found in by_kernel.items()}


def kernels_ms(predictors: Mapping[str, KernelCosts], spec: BlockSpec, hw: int) -> float:
    """Latency in ms of a block as the sum of its kernels."""
    return float(sum(predictors[name].predict([features])[0] for name, features in kernels_of(spec, hw)))
