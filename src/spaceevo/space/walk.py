"""One walk over the layers of a block; costs, latency keys, sizes, kernels and integer programs all read it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar

from spaceevo.space.blocks import block_type
from spaceevo.space.spec import BlockSpec, Layer, Recipe

T = TypeVar("T")
BLOCK_INPUT = "input"  # Stands for the block's input among the names of layers


@lru_cache(maxsize=1 << 16)
def recipe_of(spec: BlockSpec) -> Recipe:
    """Look up all layers of a block by name."""
    return block_type(spec.type).recipe(spec)


def walk(spec: BlockSpec, x: T, visit: Callable[[str, Layer, tuple[T, ...]], T]) -> T:
    """Carry a value of any type from a block's input to its result, layer by layer in the order of its data flow.

    `visit` receives a layer's name, the layer and the values that it reads, and returns the value of its result.
    """
    recipe = recipe_of(spec)

    def run(name: str, /, *inputs: T) -> T:
        return visit(name, recipe[name], inputs) if name in recipe else inputs[0]

    return block_type(spec.type).forward(run, x)


@dataclass(frozen=True, slots=True)
class PlacedLayer:
    """Tells where a layer stands in a block: the layers it reads (or `BLOCK_INPUT`), and heights and widths."""

    name: str
    layer: Layer
    sources: tuple[str, ...]
    input_hws: tuple[int, ...]
    output_hw: int

    @property
    def hw(self) -> int:
        """Height and width of what it reads: the greatest, for a gate of `mul` is 1×1."""
        return max(self.input_hws)


class PlacedLayers(NamedTuple):
    """Lists a block's layers in order, and says which gives its result and how high and wide that is."""

    layers: tuple[PlacedLayer, ...]
    output: str
    output_hw: int


@lru_cache(maxsize=1 << 14)
def placed_layers(spec: BlockSpec, hw: int) -> PlacedLayers:
    """Place every layer of a block whose input is `(N, Cin, hw, hw)`."""
    found: list[PlacedLayer] = []

    def visit(name: str, layer: Layer, inputs: tuple[tuple[str, int], ...]) -> tuple[str, int]:
        sources, hws = zip(*inputs, strict=True)
        found.append(PlacedLayer(name, layer, sources, hws, layer.output_hw(max(hws))))
        return name, found[-1].output_hw

    output, size = walk(spec, (BLOCK_INPUT, hw), visit)
    return PlacedLayers(tuple(found), output, size)


@lru_cache(maxsize=1 << 18)
def output_hw(spec: BlockSpec, hw: int) -> int:
    """Compute height and width of a block's result for an input of `hw`; 1 where it pools."""
    return placed_layers(spec, hw).output_hw


def branch_end(spec: BlockSpec) -> str | None:
    """Find the convolution whose norm, set to zero, makes a residual block its shortcut.

    It is the last one of the main branch, the longer of the two ways into the block's sum. None where the block adds
    nothing, where that convolution has no norm, and where an activation stands between norm and sum: behind a ReLU, a
    branch that starts at zero gets no gradient and never learns.
    """
    by_name = {placed.name: placed for placed in placed_layers(spec, 1).layers}

    def way_to(name: str) -> list[str]:
        return [] if name == BLOCK_INPUT else [name, *way_to(by_name[name].sources[0])]

    sums = [placed for placed in by_name.values() if placed.layer.kind == "add"]
    for name in max(map(way_to, sums[-1].sources), key=len) if sums else []:
        layer = by_name[name].layer
        if layer.act != "none":
            return None
        if layer.has_weight:
            return name if layer.norm else None
    return None
