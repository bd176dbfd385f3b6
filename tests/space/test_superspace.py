import re

import pytest

from spaceevo.errors import ConfigError, EncodingError
from spaceevo.space.description import parse_space, superspace
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.spec import BlockChoice

DIGITS = "d1#1#2#1#1_k3#3#3#5#5#3_w8#16#24#16#32#48_e0#0#2.0#3.0#3.0#0.5_r24"


@pytest.mark.parametrize(
    ("name", "windows"),
    [("mobilew", [2, 6, 6, 7, 5, 4]), ("onnxw", [2, 4, 4, 4, 4, 4]), ("digits", [2, 2, 2])],
)
def test_number_of_windows(name: str, windows: list[int]) -> None:
    space = superspace(name)
    assert [stage.windows for stage in space.searched] == windows
    size = 1
    for count in windows:
        size *= count * len(space.candidates)
    assert space.size == size


@pytest.mark.parametrize(
    ("name", "stage", "window", "widths"),
    [
        ("mobilew", "stage1", 1, (32, 40)),
        ("mobilew", "stage3", 5, (96, 104, 112)),
        ("mobilew", "stage5", 0, (192, 200, 208, 216, 224)),
        ("mobilew", "stage5", 4, (224, 240, 256, 272, 288)),
        ("mobilew", "stage6", 0, (216, 232, 248, 264, 280, 296, 312)),
        ("onnxw", "stage4", 3, (160, 176, 192)),
        ("onnxw", "stage6", 3, (352, 368, 384, 400, 416, 432, 448)),
    ],
)
def test_a_window_is_a_run_of_widths(name: str, stage: str, window: int, widths: tuple[int, ...]) -> None:
    assert superspace(name).stage_space(stage, 1, window).widths == widths


@pytest.mark.parametrize(
    ("name", "classes", "strides"), [("mobilew", 1000, "21222121111"), ("onnxw", 1000, "21222121111")]
)
def test_macro_architecture(name: str, classes: int, strides: str) -> None:
    space = superspace(name)
    assert space.num_classes == classes
    assert "".join(str(stage.stride) for stage in space.stages) == strides
    assert space.block_resolutions == (160, 192, 224)
    assert space.supernet_resolutions == (160, 176, 192, 208, 224)
    assert space.input_channels == 3


@pytest.mark.parametrize(
    ("stage", "cins", "hw"),
    [
        ("first_conv", (3,), 224),
        ("stage1", (16, 24, 32), 112),
        ("stage2", (24, 32, 40), 56),
        ("stage5", (112, 120, 128, 136, 144, 152, 160, 168, 176), 14),
        ("stage6", (192, 200, 208, 216, 224, 240, 256, 272, 288), 7),
        ("logits", (1920,), 1),
    ],
)
def test_input_of_a_stage(stage: str, cins: tuple[int, ...], hw: int) -> None:
    space = superspace("mobilew")
    assert space.cins(stage) == cins
    assert space.input_hw(stage, 224) == hw


@pytest.mark.parametrize(
    ("stage", "block", "window", "words"),
    [
        ("stage9", 0, 0, ["no stage 'stage9'", "stage6"]),
        ("stage1", 7, 0, ["stage1", "block index 7", "6 MobileNetV2K3Res"]),
        ("stage1", -1, 0, ["block index -1"]),
        ("stage1", None, None, ["block index None", "0 MobileNetV1Dual"]),
        ("stage1", 0, 2, ["stage1", "window index 2", "0…1"]),
        ("stage1", 0, -1, ["window index -1"]),
    ],
)
def test_wrong_stage_block_or_window(stage: str, block: int | None, window: int | None, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        superspace("mobilew").stage_space(stage, block, window)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("counts", [(5, 6), (6, 5), (7, 6), (0, 6)])
def test_a_member_has_one_index_a_stage(counts: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"\d (block|window) indices for the stages stage1, .*stage6"):
        superspace("mobilew").member((0,) * counts[0], (0,) * counts[1])


@pytest.mark.parametrize("name", ["mobilew-013456-133421", "onnxw-012345-123123", "digits-012-110"])
def test_largest_and_smallest_bound_the_space(name: str) -> None:
    member = parse_space(name)
    for spec in (member.largest, member.smallest):
        member.validate(spec)
    for space, largest, smallest in zip(member.body, member.largest.stages, member.smallest.stages, strict=True):
        assert (len(largest), len(smallest)) == (max(space.depths), min(space.depths))
        for position in range(max(space.depths)):
            specs = list(space.block_specs(position))
            assert len(set(specs)) == len(specs)
            assert max(spec.cout for spec in specs) == largest[0].width
            assert min(spec.kernel for spec in specs) == smallest[0].kernel
            assert {spec.stride for spec in specs} == {space.stride if position == 0 else 1}
            assert {spec.cin for spec in specs} == set(space.cins if position == 0 else space.widths)


def test_blocks_of_a_subnet_are_chained() -> None:
    member = parse_space("digits-012-110")
    specs = [spec for stage in member.block_specs(SubnetSpec.parse(DIGITS)).values() for spec in stage]
    assert [spec.cin for spec in specs] == [3, *(spec.cout for spec in specs[:-1])]
    assert [spec.cout for spec in specs] == [8, 16, 24, 16, 32, 48, 96, 128, 10]
    assert [spec.stride for spec in specs] == [2, 1, 2, 1, 2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("_r24", "_r28"), ["resolution 28", "allowed: 24, 32"]),
        (("d1#1#2#1#1", "d1#1#1#2#1"), ["stage2, block 1", "width 16", "allowed: 32, 40"]),
        (("k3#3#3#5#5#3", "k3#3#3#7#5#3"), ["stage1, block 2", "kernel 7", "allowed: 3, 5"]),
        (("e0#0#2.0#3.0#3.0#0.5", "e0#0#2.0#6.0#3.0#0.5"), ["stage1, block 2", "expand ratio 6", "allowed: 2, 3"]),
        (("e0#0#2.0", "e0#2.0#2.0"), ["stage0, block 1", "expand ratio 2.0", "allowed: None"]),
        (("_w8#16#24", "_w8#16#32"), ["stage1, block 1", "width 32", "allowed: 16, 24"]),
        (("d1#1#2#1#1", "d1#1#4"), ["3 depths", "stage3", "digits-012-010"]),
        (("d1#1#2#1#1", "d2#1#1#1#1"), ["first_conv", "depth 2", "allowed: 1"]),
    ],
)
def test_a_foreign_subnet_says_what_is_wrong(change: tuple[str, str], words: list[str]) -> None:
    member = parse_space("digits-012-010")
    member.validate(SubnetSpec.parse(DIGITS))
    with pytest.raises(EncodingError) as caught:
        member.validate(SubnetSpec.parse(DIGITS.replace(*change)))
    message = re.sub(r"subnet '[^']*'", "", str(caught.value))
    assert all(word in message for word in words), message


def test_equal_members_hash_alike() -> None:
    one, other = parse_space("digits-012-010"), parse_space("digits-012_010")
    assert (one, hash(one)) == (other, hash(other))
    assert one != parse_space("digits-012-011")
    assert len({one, other}) == 1


def test_a_substage_is_checked_as_a_value() -> None:
    space = superspace("mobilew").stage_space("stage1", 0, 0)
    space.validate([BlockChoice(7, 24, None), BlockChoice(3, 32, None)])
    with pytest.raises(EncodingError, match="block 2: width 40 is not allowed; allowed: 24, 32"):
        space.validate([BlockChoice(7, 24, None), BlockChoice(3, 40, None)])
