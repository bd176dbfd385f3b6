"""A block of any type, elastic over a set of specs or fixed to one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor, nn

from spaceevo.nn.layers import ElasticLayer, make_layer
from spaceevo.quant.quantizer import ActivationQuantizer, Scheme
from spaceevo.space.blocks import block_type
from spaceevo.space.cost import recipe_of
from spaceevo.space.spec import BlockSpec, Recipe


def envelope(recipes: Iterable[Recipe]) -> Recipe:
    """The smallest recipe that holds all of these as slices."""
    layers: Recipe = {}
    for recipe in recipes:
        for name, layer in recipe.items():
            layers[name] = layers[name].envelope(layer) if name in layers else layer
    return layers


class LayerWriter(Protocol):
    """Writes layers into another form of the network: an integer program, a plain one."""

    def layer(self, name: str, leaf: ElasticLayer, inputs: Sequence[str], /) -> str:
        """Append a layer that reads these tensors; return the name of its result."""
        ...


class Block(nn.Module):
    """Layers for every one of `specs`, all of one block type; `activate` says which spec is in force.

    The data flow is the block type's; this class only runs its layers, on tensors or into an integer program.
    """

    def __init__(self, specs: Iterable[BlockSpec], scheme: Scheme) -> None:
        super().__init__()
        allowed = tuple(specs)
        self.block_type = block_type(allowed[0].type)
        self.scheme = scheme
        layers = envelope(recipe_of(spec) for spec in allowed)
        self.layers = nn.ModuleDict({name: make_layer(layer, scheme) for name, layer in layers.items()})
        self.activate(allowed[-1])

    def activate(self, spec: BlockSpec) -> None:
        """Put one spec in force."""
        self.spec, self.recipe = spec, recipe_of(spec)
        for name, layer in self.recipe.items():
            self.leaf(name).active = layer

    def leaf(self, name: str) -> ElasticLayer:
        """The layer of this name."""
        layer = self.layers[name]
        assert isinstance(layer, ElasticLayer)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """`(N, Cin, H, W)` → `(N, Cout, H/stride, W/stride)`."""

        def run(name: str, /, *inputs: Tensor) -> Tensor:
            y: Tensor = self.layers[name](*inputs) if name in self.recipe else inputs[0]
            return y

        return self.block_type.forward(run, x)

    def read_from(self, source: ActivationQuantizer | None) -> ActivationQuantizer | None:
        """Tell every layer in force the quantiser of the tensor it reads; return that of the block's result."""

        def run(name: str, /, *sources: ActivationQuantizer | None) -> ActivationQuantizer | None:
            return self.leaf(name).read_from(sources[0]) if name in self.recipe else sources[0]

        return self.block_type.forward(run, source)

    def extract(self) -> Block:
        """A block of its own with the active spec's weights."""
        fixed = Block([self.spec], self.scheme)
        for name, layer in self.recipe.items():
            fixed.layers[name] = self.leaf(name).narrow(layer)
        return fixed

    def lower(self, writer: LayerWriter, prefix: str, x: str) -> str:
        """Write the block's layers in order; return the result's tensor."""

        def run(name: str, /, *inputs: str) -> str:
            return writer.layer(f"{prefix}.{name}", self.leaf(name), inputs) if name in self.recipe else inputs[0]

        return self.block_type.forward(run, x)
