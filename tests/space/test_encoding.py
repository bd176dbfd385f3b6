from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spaceevo.errors import EncodingError
from spaceevo.space.description import conf_folder, parse_description, parse_space, superspace
from spaceevo.space.encoding import SubnetSpec, format_indices, format_substage, parse_indices, parse_substage
from spaceevo.space.spec import BlockChoice
from spaceevo.space.superspace import Superspace

ratios = st.none() | st.integers(1, 12) | st.integers(1, 48).map(lambda quarters: quarters / 4)
blocks = st.builds(BlockChoice, st.integers(1, 11), st.integers(1, 4096), ratios)
substages = st.lists(blocks, min_size=1, max_size=8).map(tuple)
subnets = st.builds(SubnetSpec, st.lists(substages, min_size=1, max_size=9).map(tuple), st.integers(1, 1024))


@given(spec=subnets)
def test_subnets_round_trip(spec: SubnetSpec) -> None:
    again = SubnetSpec.parse(str(spec))
    assert again == spec
    assert hash(again) == hash(spec)
    assert str(again) == str(spec)


@given(spec=subnets, data=st.data())
def test_a_damaged_subnet_is_refused_or_another_subnet(spec: SubnetSpec, data: st.DataObject) -> None:
    """Whatever happens to a character, what is read is written back as it stands, or an error says where."""
    text = str(spec)
    position = data.draw(st.integers(0, len(text)))
    damaged = text[:position] + data.draw(st.text("0123456789.#_dkwer-+ eEnax", max_size=2)) + text[position + 1 :]
    try:
        found = SubnetSpec.parse(damaged)
    except EncodingError as error:
        assert str(error).startswith("subnet '")
    else:
        again = str(found)
        assert SubnetSpec.parse(again) == found
        assert again.split("_e")[0] == damaged.strip().split("_e")[0]


@given(stage=substages)
def test_substages_round_trip(stage: tuple[BlockChoice, ...]) -> None:
    assert parse_substage(format_substage(stage)) == stage


@given(indices=st.lists(st.integers(0, 30), min_size=1, max_size=9).map(tuple))
def test_indices_round_trip(indices: tuple[int, ...]) -> None:
    text = format_indices(indices)
    assert parse_indices(text, "indices") == indices
    assert ("." in text) == (max(indices) > 9)


@given(data=st.data(), name=st.sampled_from(["mobilew", "onnxw", "digits"]))
def test_members_round_trip(data: st.DataObject, name: str) -> None:
    space = superspace(name)
    chosen = [data.draw(st.integers(0, len(space.candidates) - 1)) for _ in space.searched]
    windows = [data.draw(st.integers(0, stage.windows - 1)) for stage in space.searched]
    member = space.member(chosen, windows)
    assert parse_space(str(member)) == member
    assert str(member) == f"{name}-{''.join(map(str, chosen))}-{''.join(map(str, windows))}"


@pytest.fixture(scope="module")
def wide() -> Superspace:
    """Twelve candidates and eleven windows: ids of two digits."""
    content = yaml.safe_load((conf_folder() / "superspace" / "digits.yaml").read_text(encoding="utf-8"))
    candidate = content["candidates"][0]
    content["name"] = "wide"
    content["candidates"] = [{**candidate, "expands": [ratio]} for ratio in range(1, 13)]
    content["stages"]["stage2"] |= {"widths": {"min": 8, "max": 88, "step": 8}, "window": 1}
    return parse_description(content)


@pytest.mark.parametrize(
    ("chosen", "windows", "text"),
    [
        ((11, 0, 3), (0, 1, 1), "wide-11.0.3-011"),
        ((1, 2, 3), (1, 10, 0), "wide-123-1.10.0"),
        ((10, 11, 10), (1, 10, 1), "wide-10.11.10-1.10.1"),
        ((1, 2, 3), (1, 9, 0), "wide-123-190"),
    ],
)
def test_ids_above_nine_are_separated(
    wide: Superspace, chosen: tuple[int, ...], windows: tuple[int, ...], text: str
) -> None:
    member = wide.member(chosen, windows)
    assert str(member) == text
    assert parse_space(text, within=wide) == member
    assert member.stages["stage1"].candidate.expands == (chosen[0] + 1,)


def test_search_logs_leave_the_name_out() -> None:
    member = parse_space("mobilew-122222-155400")
    assert parse_space("122222_155400", within=member.superspace) == member
    with pytest.raises(EncodingError, match="is not of the form"):
        parse_space("122222_155400")


def test_published_subnets_round_trip(reference: Path) -> None:
    published = yaml.safe_load((reference / "published.yaml").read_text())
    members = {name: parse_space(text) for name, text in published["supernets"].items()}
    assert [str(member) for member in members.values()] == list(published["supernets"].values())
    assert len(published["subnets"]) == 10
    for entry in published["subnets"].values():
        spec = SubnetSpec.parse(entry["subnet"])
        assert str(spec) == entry["subnet"]
        members[entry["supernet"]].validate(spec)


def test_fields_of_a_subnet() -> None:
    spec = SubnetSpec.parse("d1#2_k3#5#7_w16#24#32_e0#3.0#0.5_r160")
    assert spec.stages == ((BlockChoice(3, 16, None),), (BlockChoice(5, 24, 3.0), BlockChoice(7, 32, 0.5)))
    assert spec.resolution == 160


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not of the form d<depths>_k<kernels>"),
        ("d1_k3_w16_e0", "is not of the form"),
        ("k3_d1_w16_e0_r32", "is not of the form"),
        ("d1_k3_w16_e0_r32_x", "is not of the form"),
        ("d1#2_k3#3#x_w8#8#8_e0#0#0_r32", "kernels, position 3: 'x' is not a positive whole number"),
        ("d1#1.5_k3#3_w8#8_e0#0_r32", "depths, position 2: '1.5' is not a positive whole number"),
        ("d1_k3_w_e0_r32", "widths, position 1: '' is not a positive whole number"),
        ("d2_k3#3_w8#8_e0#None_r32", "expand ratios, position 2: 'None' is not a positive number, or 0 for none"),
        ("d1_k3_w8_e0_r", "resolution, position 1: '' is not a positive whole number"),
        ("d1_k3_w8_e0_r32#64", "resolution must be one number, not '32#64'"),
        ("d1_k3_w8_e0_r0", "resolution, position 1: '0' is not a positive whole number"),
        ("d1#0_k3_w8_e0_r32", "depths, position 2: '0' is not a positive whole number"),
        ("d1#2_k3#3_w8#8#8_e0#0#0_r32", "2 kernels for 3 blocks"),
        ("d1#2_k3#3#3_w8#8#8#8_e0#0#0_r32", "4 widths for 3 blocks"),
        ("d1#2_k3#3#3_w8#8#8_e0_r32", "1 expand ratios for 3 blocks"),
    ],
)
def test_wrong_subnets_say_where(text: str, words: str) -> None:
    with pytest.raises(EncodingError) as caught:
        SubnetSpec.parse(text)
    assert str(caught.value).startswith(f"subnet '{text}'")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("d1#-1_k3_w8_e0_r32", "depths, position 2: '-1'"),
        ("d1#01_k3#3_w8#8_e0#0_r32", "depths, position 2: '01'"),
        ("d\u0661_k3_w8_e0_r32", "depths, position 1"),
        ("d1_k3_w8_e1_0_r32", "is not of the form"),
        ("d1_k3_w8_e0_r-32", "resolution, position 1: '-32'"),
        ("d1_k3_w8_e0x_r32", "expand ratios, position 1: '0x'"),
        ("d1_k3_w8_enan_r32", "expand ratios, position 1: 'nan'"),
        ("d1_k3_w8_einf_r32", "expand ratios, position 1: 'inf'"),
        ("d1_k3_w8_e1e1_r32", "expand ratios, position 1: '1e1'"),
        ("d1_k3_w8_e-1.0_r32", "expand ratios, position 1: '-1.0'"),
        ("d1_k3_w8_e 3_r32", "expand ratios, position 1: ' 3'"),
        ("d1_k3_w8_e0.0_r32", "expand ratios, position 1: '0.0'"),
        ("d2_k3#-3_w8#8_e0#0_r32", "kernels, position 2: '-3'"),
        ("d1_k0_w8_e0_r32", "kernels, position 1: '0'"),
        ("d1_k3_w-8_e0_r32", "widths, position 1: '-8'"),
        ("d1_k3_w0_e0_r32", "widths, position 1: '0'"),
        ("d1_k+3_w8_e0_r32", "kernels, position 1: '+3'"),
        ("d1_k 3_w8_e0_r32", "kernels, position 1: ' 3'"),
        ("d1_k3\n_w8_e0_r32", "kernels, position 1: '3\n'"),
    ],
)
def test_numbers_are_positive_and_plainly_written(text: str, where: str) -> None:
    with pytest.raises(EncodingError) as caught:
        SubnetSpec.parse(text)
    assert where in str(caught.value)


@pytest.mark.parametrize(
    ("text", "position", "item"),
    [
        ("3#32", 1, "3#32"),
        ("3#32#1.5_5#24", 2, "5#24"),
        ("3#32#1.5__5#24#1", 2, ""),
        ("3#32#1.5_5#24#none", 2, "5#24#none"),
        ("3#32#-1", 1, "3#32#-1"),
        ("3#32#1_0#32#1", 2, "0#32#1"),
        ("3#32#0.0", 1, "3#32#0.0"),
        ("3#032#1", 1, "3#032#1"),
        ("3#32#1._3#32#1", 1, "3#32#1."),
        ("3#32#1 _3#32#1", 1, "3#32#1 "),
        ("", 1, ""),
    ],
)
def test_wrong_substages_say_where(text: str, position: int, item: str) -> None:
    with pytest.raises(EncodingError) as caught:
        parse_substage(text)
    assert f"sub-stage '{text}', block {position}: '{item}' is not kernel#width#expand" in str(caught.value)
