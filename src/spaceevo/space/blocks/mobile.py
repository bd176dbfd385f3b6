"""Block types built on depthwise convolutions: MobileNetV1, V2, V3 and their fused form."""

from __future__ import annotations

from typing import ClassVar

from spaceevo.space.blocks.base import (
    BlockType,
    Run,
    T,
    add_shortcut,
    conv,
    depthwise,
    register,
    shortcut_recipe,
    squeeze_excite,
    squeeze_excite_recipe,
)
from spaceevo.space.spec import BlockSpec, Layer, Recipe, round_channels


@register
class MobileNetV1(BlockType):
    """Depthwise, then 1×1 convolution; no residual."""

    name = "MobileNetV1"
    has_expand = False

    def recipe(self, spec: BlockSpec) -> Recipe:
        """Depthwise and pointwise layer."""
        return {
            "depthwise": depthwise(spec.cin, spec.kernel, spec.stride, spec.act),
            "pointwise": conv(spec.cin, spec.cout, act=spec.act),
        }

    def forward(self, run: Run[T], x: T) -> T:
        """Depthwise, pointwise."""
        return run("pointwise", run("depthwise", x))


@register
class MobileNetV1Dual(BlockType):
    """Two MobileNetV1 blocks in a row with one shortcut around both and no activation after the sum."""

    name = "MobileNetV1Dual"
    has_expand = False

    def recipe(self, spec: BlockSpec) -> Recipe:
        """Two depthwise-pointwise pairs and a shortcut."""
        return {
            "depthwise1": depthwise(spec.cin, spec.kernel, spec.stride, spec.act),
            "pointwise1": conv(spec.cin, spec.cout, act=spec.act),
            "depthwise2": depthwise(spec.cout, spec.kernel, act=spec.act),
            "pointwise2": conv(spec.cout, spec.cout, act=spec.act),
            **shortcut_recipe(spec, project=True),
        }

    def forward(self, run: Run[T], x: T) -> T:
        """Both pairs, then the sum."""
        y = run("pointwise1", run("depthwise1", x))
        y = run("pointwise2", run("depthwise2", y))
        return add_shortcut(run, y, x)

    def key_expand(self, expand: float | None) -> str:
        """Published tables write 0 for this type."""
        return "0"


@register
class MobileNetV2(BlockType):
    """Inverted residual: 1×1 expand, depthwise, 1×1 project; identity residual where sizes allow.

    Subclasses switch on the squeeze-and-excitation (V3), a 1×1 shortcut where the identity does not fit (Res),
    stacks of 3×3 in place of the larger depthwise kernels (K3).
    """

    name = "MobileNetV2"
    squeezes_own_channels = True
    squeezes: ClassVar[bool] = False
    projects_shortcut: ClassVar[bool] = False
    stacks_3x3: ClassVar[bool] = False

    def recipe(self, spec: BlockSpec) -> Recipe:
        """Layers of the inverted residual; the expansion is absent where it would not widen."""
        assert spec.expand is not None
        hidden = round_channels(spec.expand * spec.cin)
        layers: Recipe = {} if hidden == spec.cin else {"expand": conv(spec.cin, hidden, act=spec.act)}
        layers["depthwise"] = self._depthwise(hidden, spec)
        if self.squeezes:
            layers |= squeeze_excite_recipe(hidden, squeezed_from=hidden)
        layers["project"] = conv(hidden, spec.cout)
        return layers | shortcut_recipe(spec, self.projects_shortcut)

    def _depthwise(self, hidden: int, spec: BlockSpec) -> Layer:
        if self.stacks_3x3:
            return depthwise(hidden, 3, spec.stride, spec.act, stack=spec.kernel // 2)
        return depthwise(hidden, spec.kernel, spec.stride, spec.act)

    def forward(self, run: Run[T], x: T) -> T:
        """Expand, depthwise, squeeze-and-excitation, project, residual."""
        y = run("depthwise", run("expand", x))
        y = run("project", squeeze_excite(run, y))
        return add_shortcut(run, y, x)


@register
class MobileNetV2Res(MobileNetV2):
    """MobileNetV2 with a shortcut everywhere."""

    name = "MobileNetV2Res"
    projects_shortcut = True


@register
class MobileNetV2K3Res(MobileNetV2Res):
    """MobileNetV2Res whose larger kernels are stacks of 3×3."""

    name = "MobileNetV2K3Res"
    stacks_3x3 = True


@register
class MobileNetV3(MobileNetV2):
    """MobileNetV2 with squeeze-and-excitation on the hidden channels."""

    name = "MobileNetV3"
    squeezes = True


@register
class MobileNetV3Res(MobileNetV3):
    """MobileNetV3 with a shortcut everywhere."""

    name = "MobileNetV3Res"
    projects_shortcut = True


@register
class MobileNetV3K3Res(MobileNetV3Res):
    """MobileNetV3Res whose larger kernels are stacks of 3×3."""

    name = "MobileNetV3K3Res"
    stacks_3x3 = True


@register
class FusedMBConvRes(BlockType):
    """Inverted residual whose expansion and depthwise are fused into one k×k convolution, shortcut everywhere."""

    name = "FusedMBConvRes"
    squeezes: ClassVar[bool] = False

    def recipe(self, spec: BlockSpec) -> Recipe:
        """k×k convolution, optional squeeze-and-excitation, projection, shortcut."""
        assert spec.expand is not None
        hidden = round_channels(spec.expand * spec.cin)
        layers = {"conv": conv(spec.cin, hidden, spec.kernel, spec.stride, spec.act)}
        if self.squeezes:
            layers |= squeeze_excite_recipe(hidden, squeezed_from=spec.cin)
        layers["project"] = conv(hidden, spec.cout)
        return layers | shortcut_recipe(spec, project=True)

    def forward(self, run: Run[T], x: T) -> T:
        """Convolution, squeeze-and-excitation, projection, residual."""
        y = squeeze_excite(run, run("conv", x))
        return add_shortcut(run, run("project", y), x)


@register
class FusedMBConvSERes(FusedMBConvRes):
    """FusedMBConvRes with squeeze-and-excitation."""

    name = "FusedMBConvSERes"
    squeezes = True
