"""ResNet bottlenecks."""

from __future__ import annotations

from typing import ClassVar

from spaceevo.space.blocks.base import (
    BlockType,
    Run,
    T,
    add_shortcut,
    conv,
    register,
    shortcut_recipe,
    squeeze_excite,
    squeeze_excite_recipe,
)
from spaceevo.space.spec import BlockSpec, Recipe, round_channels


@register
class ResNet(BlockType):
    """Bottleneck: 1×1, k×k, 1×1 convolutions, shortcut everywhere, activation after the sum."""

    name = "ResNet"
    squeezes: ClassVar[bool] = False

    def recipe(self, spec: BlockSpec) -> Recipe:
        """Layers of the bottleneck; the hidden width follows the output width."""
        assert spec.expand is not None
        hidden = round_channels(spec.expand * spec.cout)
        layers = {
            "reduce": conv(spec.cin, hidden, act=spec.act),
            "conv": conv(hidden, hidden, spec.kernel, spec.stride, spec.act),
        }
        if self.squeezes:
            layers |= squeeze_excite_recipe(hidden, squeezed_from=spec.cin)
        layers["project"] = conv(hidden, spec.cout)
        return layers | shortcut_recipe(spec, project=True, act=spec.act)

    def forward(self, run: Run[T], x: T) -> T:
        """Reduce, convolve, squeeze-and-excitation, project, residual."""
        y = squeeze_excite(run, run("conv", run("reduce", x)))
        return add_shortcut(run, run("project", y), x)

    def key_expand(self, expand: float | None) -> str:
        """Published tables write the ratio as a float."""
        return str(expand)


@register
class ResNetSE(ResNet):
    """ResNet bottleneck with squeeze-and-excitation on the hidden channels."""

    name = "ResNetSE"
    squeezes = True
