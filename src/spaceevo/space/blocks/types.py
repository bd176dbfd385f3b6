"""All block types: MobileNetV1, V2, V3 and their fused form, ResNet bottlenecks, the stem and the heads."""

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
from spaceevo.space.spec import Activation, BlockSpec, Layer, Recipe, round_channels


@register
class MobileNetV1(BlockType):
    """Depthwise, then 1×1 convolution; no residual."""

    has_expand = False

    def recipe(self, spec: BlockSpec) -> Recipe:
        return {
            "depthwise": depthwise(spec.cin, spec.kernel, spec.stride, spec.act),
            "pointwise": conv(spec.cin, spec.cout, act=spec.act),
        }

    def forward(self, run: Run[T], x: T) -> T:
        return run("pointwise", run("depthwise", x))


@register
class MobileNetV1Dual(BlockType):
    """Two MobileNetV1 blocks in a row with one shortcut around both and no activation after the sum."""

    has_expand = False

    def recipe(self, spec: BlockSpec) -> Recipe:
        return {
            "depthwise1": depthwise(spec.cin, spec.kernel, spec.stride, spec.act),
            "pointwise1": conv(spec.cin, spec.cout, act=spec.act),
            "depthwise2": depthwise(spec.cout, spec.kernel, act=spec.act),
            "pointwise2": conv(spec.cout, spec.cout, act=spec.act),
            **shortcut_recipe(spec, project=True),
        }

    def forward(self, run: Run[T], x: T) -> T:
        first = run("pointwise1", run("depthwise1", x))
        return add_shortcut(run, run("pointwise2", run("depthwise2", first)), x)

    def key_expand(self, expand: float | None) -> str:
        return "0"


class _Bottleneck(BlockType):
    """Works on hidden channels, projects them to the block's width, and adds a shortcut.

    Subclasses list the layers before the projection; those that one of them lacks pass their input on.
    """

    squeezes: ClassVar[bool] = False  # Squeeze-and-excitation on the hidden channels
    projects_shortcut: ClassVar[bool] = True  # A 1×1 shortcut where the identity does not fit

    def completed(self, layers: Recipe, spec: BlockSpec, hidden: int, act: Activation = "none") -> Recipe:
        """List the layers with what follows them; `act` comes after the sum."""
        if self.squeezes:
            layers |= squeeze_excite_recipe(hidden, hidden if self.squeezes_own_channels else spec.cin)
        layers["project"] = conv(hidden, spec.cout)
        return layers | shortcut_recipe(spec, self.projects_shortcut, act)

    def forward(self, run: Run[T], x: T) -> T:
        hidden = run("conv", run("reduce", run("depthwise", run("expand", x))))
        return add_shortcut(run, run("project", squeeze_excite(run, hidden)), x)


@register
class MobileNetV2(_Bottleneck):
    """Inverted residual: 1×1 expand (if it widens), depthwise, 1×1 project; identity residual where sizes allow.

    Subclasses switch on the squeeze-and-excitation (V3), a shortcut everywhere (Res), stacks of 3×3 in place of the
    larger depthwise kernels (K3).
    """

    squeezes_own_channels = True
    projects_shortcut = False
    stacks_3x3: ClassVar[bool] = False

    def recipe(self, spec: BlockSpec) -> Recipe:
        assert spec.expand is not None
        hidden = round_channels(spec.expand * spec.cin)
        layers: Recipe = {} if hidden == spec.cin else {"expand": conv(spec.cin, hidden, act=spec.act)}
        kernel, stack = (3, spec.kernel // 2) if self.stacks_3x3 else (spec.kernel, 1)
        layers["depthwise"] = depthwise(hidden, kernel, spec.stride, spec.act, stack)
        return self.completed(layers, spec, hidden)


@register
class MobileNetV2Res(MobileNetV2):
    """MobileNetV2 with a shortcut everywhere."""

    projects_shortcut = True


@register
class MobileNetV2K3Res(MobileNetV2Res):
    """MobileNetV2Res whose larger kernels are stacks of 3×3."""

    stacks_3x3 = True


@register
class MobileNetV3(MobileNetV2):
    """MobileNetV2 with squeeze-and-excitation on the hidden channels."""

    squeezes = True


@register
class MobileNetV3Res(MobileNetV3):
    """MobileNetV3 with a shortcut everywhere."""

    projects_shortcut = True


@register
class MobileNetV3K3Res(MobileNetV3Res):
    """MobileNetV3Res whose larger kernels are stacks of 3×3."""

    stacks_3x3 = True


@register
class FusedMBConvRes(_Bottleneck):
    """Inverted residual whose expansion and depthwise are fused into one k×k convolution, shortcut everywhere."""

    def recipe(self, spec: BlockSpec) -> Recipe:
        assert spec.expand is not None
        hidden = round_channels(spec.expand * spec.cin)
        return self.completed({"conv": conv(spec.cin, hidden, spec.kernel, spec.stride, spec.act)}, spec, hidden)


@register
class FusedMBConvSERes(FusedMBConvRes):
    """FusedMBConvRes with squeeze-and-excitation."""

    squeezes = True


@register
class ResNet(_Bottleneck):
    """Bottleneck: 1×1, k×k, 1×1 convolutions, shortcut everywhere, activation after the sum."""

    def recipe(self, spec: BlockSpec) -> Recipe:
        assert spec.expand is not None
        hidden = round_channels(spec.expand * spec.cout)  # of the output width, unlike the others
        layers = {
            "reduce": conv(spec.cin, hidden, act=spec.act),
            "conv": conv(hidden, hidden, spec.kernel, spec.stride, spec.act),
        }
        return self.completed(layers, spec, hidden, spec.act)

    def key_expand(self, expand: float | None) -> str:
        return str(expand)


@register
class ResNetSE(ResNet):
    """ResNet bottleneck with squeeze-and-excitation on the hidden channels."""

    squeezes = True


@register
class FirstConv(BlockType):
    """Stem: k×k convolution, batch norm, activation."""

    has_expand = False

    def recipe(self, spec: BlockSpec) -> Recipe:
        return {"conv": conv(spec.cin, spec.cout, spec.kernel, spec.stride, spec.act)}

    def forward(self, run: Run[T], x: T) -> T:
        return run("conv", x)


@register
class FinalExpand(FirstConv):
    """Head: 1×1 convolution to the final width."""

    is_head = True


@register
class FeatureMix(FirstConv):
    """Head: global average pool, then 1×1 convolution."""

    is_head = True

    def recipe(self, spec: BlockSpec) -> Recipe:
        return {"pool": Layer("pool", spec.cin, spec.cin), **super().recipe(spec)}

    def forward(self, run: Run[T], x: T) -> T:
        return run("conv", run("pool", x))


@register
class Logits(BlockType):
    """Head: linear classifier with bias."""

    has_expand = False
    is_head = True

    def recipe(self, spec: BlockSpec) -> Recipe:
        return {"linear": Layer("linear", spec.cin, spec.cout, norm=False)}

    def forward(self, run: Run[T], x: T) -> T:
        return run("linear", x)

    def key(self, spec: BlockSpec, hw: int) -> str:
        return f"LogitsBlock_1_{spec.cin}_{spec.cout}_0_None_0_relu"
