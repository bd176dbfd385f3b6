import pytest

from spaceevo.errors import ConfigError
from spaceevo.space.blocks import block_type, block_types
from spaceevo.space.spec import BlockSpec, Layer


def recipe(kind: str, cin: int, cout: int, kernel: int, expand: float | None, stride: int = 1) -> dict[str, Layer]:
    return block_type(kind).recipe(BlockSpec(kind, cin, cout, kernel, expand, stride, "relu"))


def test_every_published_type_is_registered() -> None:
    mobile = {"MobileNetV1", "MobileNetV1Dual", "MobileNetV2", "MobileNetV2Res", "MobileNetV2K3Res", "MobileNetV3"}
    mobile |= {"MobileNetV3Res", "MobileNetV3K3Res", "FusedMBConvRes", "FusedMBConvSERes"}
    heads = {"FirstConv", "FinalExpand", "FeatureMix", "Logits"}
    assert block_types().keys() == mobile | heads | {"ResNet", "ResNetSE"}


def test_an_unknown_type_is_named_with_those_allowed() -> None:
    with pytest.raises(ConfigError, match=r"unknown block type 'MobileNetV9'; allowed: .*FirstConv"):
        block_type("MobileNetV9")


@pytest.mark.parametrize(
    ("kind", "expand", "names"),
    [
        ("MobileNetV1", None, "depthwise pointwise"),
        ("MobileNetV1Dual", None, "depthwise1 pointwise1 depthwise2 pointwise2 shortcut add"),
        ("MobileNetV2", 3, "expand depthwise project"),
        ("MobileNetV2", 1, "depthwise project"),
        ("MobileNetV2Res", 3, "expand depthwise project shortcut add"),
        ("MobileNetV2K3Res", 3, "expand depthwise project shortcut add"),
        ("MobileNetV3", 3, "expand depthwise se_pool se_reduce se_expand se_mul project"),
        ("MobileNetV3Res", 3, "expand depthwise se_pool se_reduce se_expand se_mul project shortcut add"),
        ("FusedMBConvRes", 1, "conv project shortcut add"),
        ("FusedMBConvSERes", 2, "conv se_pool se_reduce se_expand se_mul project shortcut add"),
        ("ResNet", 0.5, "reduce conv project shortcut add"),
        ("ResNetSE", 0.5, "reduce conv se_pool se_reduce se_expand se_mul project shortcut add"),
    ],
)
@pytest.mark.parametrize(("cout", "stride"), [(24, 1), (16, 2)])
def test_layers_where_the_identity_does_not_fit(kind: str, expand: float, names: str, cout: int, stride: int) -> None:
    assert list(recipe(kind, 16, cout, 3, expand, stride)) == names.split()


@pytest.mark.parametrize("kind", [name for name, kind in block_types().items() if kind.has_expand])
def test_identity_residual_where_sizes_allow(kind: str) -> None:
    layers = recipe(kind, 16, 16, 3, 2)
    assert "add" in layers
    assert "shortcut" not in layers


@pytest.mark.parametrize(
    ("kind", "layer", "size"),
    [
        ("MobileNetV2Res", "project", "cin"),  # r8(e·cin)
        ("FusedMBConvRes", "project", "cin"),
        ("ResNet", "project", "cout"),  # r8(e·cout)
    ],
)
def test_hidden_width_follows_the_published_rule(kind: str, layer: str, size: str) -> None:
    expected = {"cin": 56, "cout": 88}[size]
    assert recipe(kind, 104, 168, 3, 0.5)[layer].cin == expected


@pytest.mark.parametrize(
    ("kind", "squeezed"),
    [("MobileNetV3", 40), ("MobileNetV3Res", 40), ("FusedMBConvSERes", 8), ("ResNetSE", 8)],
)
def test_squeeze_width_follows_the_published_rule(kind: str, squeezed: int) -> None:
    layers = recipe(kind, 24, 24, 3, 6)  # V3: r8(144 // 4) = 40; the others: r8(24 // 4) = 8
    assert (layers["se_reduce"].cin, layers["se_reduce"].cout) == (144, squeezed)
    assert (layers["se_expand"].cin, layers["se_expand"].cout) == (squeezed, 144)


@pytest.mark.parametrize(("kernel", "stack"), [(3, 1), (5, 2), (7, 3)])
def test_k3_types_stack_three_by_three(kernel: int, stack: int) -> None:
    layer = recipe("MobileNetV3K3Res", 16, 24, kernel, 3, 2)["depthwise"]
    assert (layer.kernel, layer.stack, layer.stride) == (3, stack, 2)


@pytest.mark.parametrize(
    ("spec", "hw", "key"),
    [
        (BlockSpec("MobileNetV2Res", 32, 48, 3, 6.0, 2, "relu6"), 80, "MobileNetV2ResBlock_80_32_48_3_6_2_relu6"),
        (BlockSpec("MobileNetV1Dual", 32, 48, 5, None, 1, "relu"), 56, "MobileNetV1DualBlock_56_32_48_5_0_1_relu"),
        (BlockSpec("ResNet", 16, 16, 3, 1.0, 1, "relu"), 112, "ResNetBlock_112_16_16_3_1.0_1_relu"),
        (BlockSpec("FirstConv", 3, 16, 3, None, 2, "relu"), 224, "FirstConvBlock_224_3_16_3_None_2_relu"),
        (BlockSpec("Logits", 1920, 1000, 1, None, 1, "none"), 1, "LogitsBlock_1_1920_1000_0_None_0_relu"),
        (BlockSpec("FinalExpand", 320, 1280, 1, None, 1, "hswish"), 5, "FinalExpandBlock_5_320_1280_1_None_1_hswish"),
    ],
)
def test_latency_keys_are_the_published_ones(spec: BlockSpec, hw: int, key: str) -> None:
    assert block_type(spec.type).key(spec, hw) == key
