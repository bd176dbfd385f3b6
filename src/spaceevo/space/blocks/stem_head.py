"""Blocks that are not searched: the stem and the three head stages."""

from __future__ import annotations

from spaceevo.space.blocks.base import BlockType, Run, T, conv, register
from spaceevo.space.spec import BlockSpec, Layer, Recipe


@register
class FirstConv(BlockType):
    """Stem: k×k convolution, batch norm, activation."""

    name = "FirstConv"
    has_expand = False

    def recipe(self, spec: BlockSpec) -> Recipe:
        """One convolution."""
        return {"conv": conv(spec.cin, spec.cout, spec.kernel, spec.stride, spec.act)}

    def forward(self, run: Run[T], x: T) -> T:
        """The convolution."""
        return run("conv", x)


@register
class FinalExpand(FirstConv):
    """Head: 1×1 convolution to the final width."""

    name = "FinalExpand"
    is_head = True


@register
class FeatureMix(FirstConv):
    """Head: global average pool, then 1×1 convolution."""

    name = "FeatureMix"
    is_head = True

    def recipe(self, spec: BlockSpec) -> Recipe:
        """Pool and convolution."""
        return {"pool": Layer("pool", spec.cin, spec.cin), **super().recipe(spec)}

    def forward(self, run: Run[T], x: T) -> T:
        """Pool, then convolve."""
        return run("conv", run("pool", x))


@register
class Logits(BlockType):
    """Head: linear classifier with bias."""

    name = "Logits"
    has_expand = False
    is_head = True

    def recipe(self, spec: BlockSpec) -> Recipe:
        """One linear layer."""
        return {"linear": Layer("linear", spec.cin, spec.cout, norm=False)}

    def forward(self, run: Run[T], x: T) -> T:
        """The classifier."""
        return run("linear", x)

    def key(self, spec: BlockSpec, hw: int) -> str:
        """Published tables write a fixed kernel, stride and activation for the classifier."""
        return f"LogitsBlock_1_{spec.cin}_{spec.cout}_0_None_0_relu"
