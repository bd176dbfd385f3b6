import pytest
import torch

import spaceevo
from spaceevo.quant.program import execute
from spaceevo.runtimes.random_program import random_block_program
from spaceevo.space.blocks import block_types
from spaceevo.space.placement import block_key, place, subnet_blocks
from spaceevo.space.spec import BlockSpec


def test_sizes_halve_upwards_and_pooling_leaves_one() -> None:
    specs = [
        BlockSpec("MobileNetV2Res", 8, 16, 3, 3, 2, "relu6"),
        BlockSpec("MobileNetV3Res", 16, 16, 3, 3, 1, "hswish"),
        BlockSpec("FeatureMix", 16, 32, 1, None, 1, "hswish"),
        BlockSpec("Logits", 32, 10, 1, None, 1, "none"),
    ]
    assert [hw for _, hw in place(specs, 9)] == [9, 5, 5, 1]


def test_keys_are_the_published_ones() -> None:
    member = spaceevo.parse_space("onnxw-000000-000000")
    keys = [block_key(*block) for block in subnet_blocks(member, member.smallest)]
    assert keys[:2] == ["FirstConvBlock_160_3_16_3_None_2_relu", "ResNetBlock_80_16_16_3_0.5_1_relu"]
    assert keys[2] == "MobileNetV1DualBlock_80_16_32_3_0_2_relu"
    assert keys[-2:] == ["FeatureMixBlock_5_1280_1920_1_None_1_hswish", "LogitsBlock_1_1920_1000_0_None_0_relu"]


@pytest.mark.parametrize("name", block_types())
def test_programs_of_blocks_run(name: str) -> None:
    expand = 2 if block_types()[name].has_expand else None
    hw = 1 if name == "Logits" else 7
    program = random_block_program(BlockSpec(name, 8, 16, 3, expand, 1, "relu"), hw)
    assert program.input_shape == (8, hw, hw)
    output = execute(program, torch.randn(2, 8, hw, hw))
    assert output.shape[:2] == (2, 16)
    assert output.std() > 0
