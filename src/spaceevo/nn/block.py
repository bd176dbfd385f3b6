"""A block of any type, elastic over a set of specs or fixed to one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor, nn

from spaceevo.nn.layers import ConvLayer, ElasticLayer, make_layer
from spaceevo.quant.quantizer import ActivationQuantizer, Scheme
from spaceevo.space.blocks import block_type
from spaceevo.space.spec import BlockSpec, Recipe
from spaceevo.space.walk import branch_end, recipe_of, walk


def envelope(recipes: Iterable[Recipe]) -> Recipe:
    """Find the smallest recipe that holds all of these as slices."""
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
    """Holds layers for every one of `specs`, all of one block type; `activate` chooses the active one.

    The data flow is the block type's; this class only runs its layers, on tensors or into an integer program.
    """

    def __init__(self, specs: Iterable[BlockSpec], scheme: Scheme) -> None:
        super().__init__()
        self.allowed = tuple(specs)
        self.block_type = block_type(self.allowed[0].type)
        self.scheme = scheme
        layers = envelope(recipe_of(spec) for spec in self.allowed)
        self.layers = nn.ModuleDict({name: make_layer(layer, scheme) for name, layer in layers.items()})
        self.activate(self.allowed[-1])

    def activate(self, spec: BlockSpec) -> None:
        """Make one spec active."""
        self.spec, self.recipe = spec, recipe_of(spec)
        for name, layer in self.recipe.items():
            self.leaf(name).active = layer

    def leaf(self, name: str) -> ElasticLayer:
        """Look a layer up by its name."""
        layer = self.layers[name]
        assert isinstance(layer, ElasticLayer)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Turn `(N, Cin, H, W)` into `(N, Cout, H/stride, W/stride)`."""
        return walk(self.spec, x, lambda name, _, inputs: self.layers[name](*inputs))

    def read_from(self, source: ActivationQuantizer | None) -> ActivationQuantizer | None:
        """Tell every active layer the quantiser of the tensor it reads; return that of the block's result."""
        return walk(self.spec, source, lambda name, _, sources: self.leaf(name).read_from(sources[0]))

    def extract(self) -> Block:
        """Copy the active spec's weights into a block of its own."""
        fixed = Block([self.spec], self.scheme)
        for name, layer in self.recipe.items():
            fixed.layers[name] = self.leaf(name).narrow(layer)
        return fixed

    def lower(self, writer: LayerWriter, prefix: str, x: str) -> str:
        """Write the block's layers in order; return the result's tensor."""
        return walk(self.spec, x, lambda name, _, inputs: writer.layer(f"{prefix}.{name}", self.leaf(name), inputs))


def zero_last_norms(network: nn.Module) -> None:
    """Let every residual block of a network start as its shortcut: the norm before the sum starts at zero."""
    for block in network.modules():
        if isinstance(block, Block):
            for name in filter(None, {branch_end(spec) for spec in block.allowed}):
                layer = block.leaf(name)
                assert isinstance(layer, ConvLayer)
                assert layer.norm is not None
                nn.init.zeros_(layer.norm.weight)
