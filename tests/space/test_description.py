import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from spaceevo.errors import ConfigError, EncodingError
from spaceevo.space.blocks import block_type
from spaceevo.space.description import conf_folder, parse_description, parse_space, superspace, superspaces
from spaceevo.space.spec import halved

Content = dict[str, Any]
SHIPPED = sorted(file.stem for file in (conf_folder() / "superspace").glob("*.yaml"))

PUBLISHED = ["mobilew", "onnxw", "mobile_original", "mobile_v1", "mobile_v1_res", "onnx", "onnx_v1"]


@pytest.fixture
def digits() -> Content:
    return yaml.safe_load((conf_folder() / "superspace" / "digits.yaml").read_text(encoding="utf-8"))


def test_the_published_superspaces_are_shipped() -> None:
    assert {*PUBLISHED, "digits"} <= set(SHIPPED)
    assert set(SHIPPED) <= set(superspaces())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_superspace_loads(name: str) -> None:
    space = superspace(name)
    assert space.name == name
    assert [stage.name for stage in space.stages[-3:]] == ["final_expand", "feature_mix", "logits"]
    for stage in space.searched:
        for block in range(len(space.candidates)):
            assert space.stage_space(stage.name, block, stage.windows - 1).widths[-1] == stage.widths[-1]


@pytest.mark.parametrize(
    ("name", "types"),
    [
        (
            "mobilew",
            "MobileNetV1Dual MobileNetV2Res MobileNetV3Res ResNet FusedMBConvSERes MobileNetV3K3Res MobileNetV2K3Res",
        ),
        ("onnxw", "MobileNetV1Dual MobileNetV2Res MobileNetV3Res ResNet ResNetSE FusedMBConvRes"),
        ("onnx", "MobileNetV1Dual MobileNetV2Res MobileNetV3Res ResNet ResNetSE"),
        ("onnx_v1", "MobileNetV1Dual MobileNetV2Res MobileNetV3Res ResNet ResNetSE"),
        ("mobile_original", "MobileNetV1 MobileNetV2 MobileNetV3 ResNet ResNetSE"),
        ("mobile_v1", "MobileNetV1 MobileNetV2 MobileNetV3 ResNet ResNetSE"),
        ("mobile_v1_res", "MobileNetV1 MobileNetV2Res MobileNetV3Res ResNet ResNetSE MobileNetV1Dual"),
    ],
)
def test_candidates_are_in_the_published_order(name: str, types: str) -> None:
    assert [candidate.type for candidate in superspace(name).candidates] == types.split()


def steps(first: int, last: int, step: int = 8) -> tuple[int, ...]:
    return tuple(range(first, last + 1, step))


MOBILE_WIDTHS = [
    *[(32, 40), (16, 24), steps(24, 32), steps(40, 56), steps(80, 104), steps(96, 128)],
    *[steps(192, 256, 16), steps(320, 416, 16)],
]
ONNX_WIDTHS = [
    *[(16, 32), (16, 32), (32, 48), (48, 64), steps(80, 128, 16), (128, 144)],
    *[steps(192, 256, 16), steps(320, 432, 16)],
]


@pytest.mark.parametrize(
    ("name", "widths", "least", "most", "stage0"),
    [
        ("mobile_original", MOBILE_WIDTHS, "11222222", "11444444", "MobileNetV2"),
        ("mobile_v1", MOBILE_WIDTHS, "11222221", "11444662", "MobileNetV2"),
        ("mobile_v1_res", MOBILE_WIDTHS, "11222221", "11444662", "MobileNetV2"),
        ("onnx", ONNX_WIDTHS, "11222221", "12346662", "ResNet"),
        ("onnx_v1", ONNX_WIDTHS, "11222221", "12346662", "ResNet"),
    ],
)
def test_older_superspaces(name: str, widths: list[tuple[int, ...]], least: str, most: str, stage0: str) -> None:
    space = superspace(name)
    body = space.stages[:8]
    assert [stage.widths for stage in body] == widths
    assert "".join(str(min(stage.depths)) for stage in body) == least
    assert "".join(str(max(stage.depths)) for stage in body) == most
    assert all(stage.windows == 1 for stage in body)
    assert "".join(str(stage.stride) for stage in space.stages) == "21222121111"
    assert body[1].block is not None
    assert body[1].block.type == stage0
    assert [stage.block.act for stage in space.stages[8:10] if stage.block] == ["hswish", "hswish"]
    assert [stage.widths for stage in space.stages[8:]] == [(1280,), (1920,), (1000,)]
    assert parse_space(f"{name}-012340") == parse_space(f"{name}-012340-000000")


def test_kernels_of_the_older_residual_blocks() -> None:
    kernels = {name: superspace(name).candidates[3].kernels for name in PUBLISHED}
    assert {name for name, sizes in kernels.items() if sizes == (3, 5, 7)} == {"onnxw", "onnx"}
    assert {name for name, sizes in kernels.items() if sizes == (3, 5)} == set(PUBLISHED) - {"onnxw", "onnx"}


def test_the_published_latency_table_covers_superspace_onnx(reference: Path) -> None:
    """Its blocks were measured for the widths of this superspace."""
    entries = json.loads((reference / "latency" / "vnni_block_latency.json").read_text())
    space = superspace("onnx")
    for stage in space.stages:
        for block in range(len(space.candidates)) if stage.is_searched else [None]:
            settled, hw = space.stage_space(stage.name, block), space.input_hw(stage.name, 224)
            for position, size in ((0, hw), (1, halved(hw, stage.stride))):
                for spec in settled.block_specs(position):
                    if position < max(stage.depths):
                        key = block_type(spec.type).key(spec, 1 if stage.name == "logits" else size)
                        assert key in entries, key


def change(*path: object, to: object) -> Callable[[Content], None]:
    def apply(content: Content) -> None:
        inner: Any = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return apply


def drop(*path: object) -> Callable[[Content], None]:
    def apply(content: Content) -> None:
        inner: Any = content
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return apply


def stage(field: str, to: object, name: str = "stage2") -> Callable[[Content], None]:
    return change("stages", name, field, to=to)


FAULTS = [
    ("window too wide", stage("window", 4), "stage2|window = 4|1…3"),
    ("window zero", stage("window", 0), "stage2|window = 0|1…3"),
    ("window text", stage("window", "2"), "stage2|window = '2'|1…3"),
    ("window of a fixed stage", stage("window", 1, "stage0"), "stage0|window = 1|fixed block"),
    ("stride", stage("stride", 3), "stage2|stride = 3|1, 2"),
    ("unknown field", stage("width", [8]), "stage2|width is not a setting|widths?"),
    ("depths", stage("depths", [2, 1]), "stage2|depths = [2, 1]|ascending"),
    ("descending widths", stage("widths", [32, 24]), "stage2|widths = [32, 24]|ascending"),
    ("equal widths", stage("widths", [24, 24]), "stage2|widths = [24, 24]|ascending"),
    ("zero width", stage("widths", [0, 24]), "stage2|widths = [0, 24]|positive"),
    ("broken width", stage("widths", [24.5]), "stage2|widths = [24.5]|whole"),
    ("width yes", stage("widths", [True]), "stage2|widths = [True]|whole"),
    ("one width", stage("widths", 24), "stage2|widths = 24|a list"),
    ("no widths", stage("widths", []), "stage2|widths = []|a list"),
    ("absent widths", drop("stages", "stage2", "widths"), "stage2|widths = None|a list"),
    ("half a range", stage("widths", {"min": 8}), "stage2|widths = {'min': 8}|{min, max, step}"),
    ("no step", stage("widths", {"min": 8, "max": 9, "step": 0}), "stage2|'step': 0|{min, max, step}"),
    ("backward range", stage("widths", {"min": 16, "max": 8}), "stage2|'max': 8|{min, max, step}"),
    ("odd range", stage("widths", {"min": 8, "max": 9, "by": 1}), "stage2|'by': 1|{min, max, step}"),
    ("empty stage", change("stages", "stage2", to=None), "stage2|widths = None|a list"),
    ("fixed type", stage("block", {"type": "Conv"}, "stage0"), "stage0|type = 'Conv'|FirstConv"),
    ("type", change("candidates", 1, "type", to="MobileNetV9"), "candidate 1|type = 'MobileNetV9'|MobileNetV2Res"),
    ("no type", drop("candidates", 1, "type"), "candidate 1|type = None|MobileNetV2Res"),
    ("act", change("candidates", 0, "act", to="gelu"), "candidate 0|act = 'gelu'|hswish, swish"),
    ("even kernel", change("candidates", 0, "kernels", to=[2, 3]), "candidate 0|kernels = [2, 3]|odd"),
    ("no ratio", drop("candidates", 2, "expands"), "candidate 2|expands = None|ratios from 0.01 to 100"),
    ("tiny ratio", change("candidates", 2, "expands", to=[1e-300]), "candidate 2|expands = [1e-300]|from 0.01 to"),
    ("zero ratio", change("candidates", 2, "expands", to=[0]), "candidate 2|expands = [0]|ratios from 0.01 to 100"),
    ("candidate field", change("candidates", 2, "kernel", to=3), "candidate 2|kernel is not a setting|kernels?"),
    ("unknown key", change("input_chanels", to=1), "description|input_chanels is not a setting|input_channels?"),
    ("unknown resolution", change("resolutions", "blok", to=[8]), "resolutions|blok is not a setting|block?"),
    ("no channels", change("input_channels", to=0), "description|input_channels = 0|from 1"),
    ("channels of a text", change("input_channels", to="abc"), "description|input_channels = 'abc'|whole"),
    ("channels yes", change("input_channels", to=True), "description|input_channels = True|whole"),
    ("vast width", stage("widths", [24, 10**8]), "stage2|widths = [24, 100000000]|at most 16384"),
    ("vast range", stage("widths", {"min": 8, "max": 10**12}), "stage2|'max': 1000000000000|at most 16384"),
    ("vast depth", stage("depths", [10**7]), "stage2|depths = [10000000]|at most 100"),
    ("digits", stage("depths", [10**5000]), "stage2|depths = |at most 100"),
    ("endless ratio", change("candidates", 2, "expands", to=[float("inf")]), "candidate 2|expands = [inf]|to 100"),
    ("ratio nan", change("candidates", 2, "expands", to=[float("nan")]), "candidate 2|expands = [nan]|to 100"),
    ("window yes", stage("window", True), "stage2|window = True|1…3"),
    ("stride yes", stage("stride", True), "stage2|stride = True|1, 2"),
    ("name of a stage", change("stages", "a/b", to={"widths": [8]}), "stages|name of a stage = 'a/b'|letters"),
    ("no candidate", change("candidates", to=[]), "candidates|candidates = []|a list of block types"),
    ("name", change("name", to="two words"), "description|name = 'two words'|letters"),
    ("digit first", change("name", to="2digits"), "description|name = '2digits'|a letter first"),
    ("last stage", drop("stages", "logits"), "feature_mix|block|Logits"),
    ("missing name", drop("name"), "description|name = None|letters"),
    ("missing resolutions", drop("resolutions"), "resolutions|block = None|ascending"),
    ("missing resolution", drop("resolutions", "supernet"), "resolutions|supernet = None|ascending"),
    ("missing candidates", drop("candidates"), "candidates|candidates = None|a list of block types"),
    ("missing stages", drop("stages"), "stages|stages = None|a mapping"),
]


@pytest.mark.parametrize(("edit", "words"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_fault_names_stage_field_value_and_remedy(
    digits: Content, edit: Callable[[Content], None], words: str
) -> None:
    parse_description(copy.deepcopy(digits))
    edit(digits)
    with pytest.raises(ConfigError) as caught:
        parse_description(digits, source="digits.yaml")
    message = str(caught.value)
    assert message.startswith("superspace digits.yaml: ")
    assert "\n" not in message
    assert all(word in message for word in words.split("|")), message


def test_expand_ratios_where_a_type_has_none(digits: Content) -> None:
    digits["candidates"][0] = {"type": "MobileNetV1Dual", "expands": [2], "act": "relu"}
    with pytest.raises(ConfigError, match=r"candidate 0: expands = \[2\]; allowed: none, MobileNetV1Dual has no"):
        parse_description(digits)


def test_no_searched_stage(digits: Content) -> None:
    for name in ("stage1", "stage2", "stage3"):
        digits["stages"][name] = {"widths": [16], "block": {"type": "MobileNetV1"}}
    with pytest.raises(ConfigError, match="at least one stage without a fixed block"):
        parse_description(digits)


def test_all_faults_are_reported_together(digits: Content) -> None:
    digits["stages"]["stage1"]["window"] = 9
    digits["stages"]["stage3"]["widths"] = [1, 0]
    digits["candidates"][0]["type"] = "Nothing"
    with pytest.raises(ConfigError) as caught:
        parse_description(digits)
    assert all(word in str(caught.value) for word in ("stage1: window = 9", "stage3: widths = [1, 0]", "'Nothing'"))


@pytest.mark.parametrize("content", [None, [], "digits", 3])
def test_a_description_is_a_mapping(content: object) -> None:
    with pytest.raises(ConfigError, match="a mapping with name, resolutions, candidates, stages"):
        parse_description(content)


def test_ranges_include_both_ends(digits: Content) -> None:
    digits["stages"]["stage2"]["widths"] = {"min": 16, "max": 48, "step": 16}
    assert parse_description(digits).stage("stage2").widths == (16, 32, 48)


def test_an_unknown_superspace_is_named_with_those_allowed() -> None:
    with pytest.raises(ConfigError, match="unknown superspace 'mobile9'; allowed: .*mobilew"):
        superspace("mobile9")


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPACEEVO_CONF", str(tmp_path))
    (tmp_path / "superspace").mkdir()
    return tmp_path / "superspace"


def test_a_folder_of_ones_own_adds_superspaces(own_folder: Path, digits: Content) -> None:
    (own_folder / "mine.yaml").write_text(yaml.safe_dump({**digits, "name": "mine"}, sort_keys=False))
    assert {"mine", "mobilew"} <= set(superspaces())
    member = parse_space("mine-012-111")
    assert (str(member), member.superspace.stages) == ("mine-012-111", superspace("digits").stages)


def test_an_edited_description_is_read_again(own_folder: Path, digits: Content) -> None:
    file = own_folder / "mine.yaml"
    file.write_text(yaml.safe_dump({**digits, "name": "mine"}, sort_keys=False))
    assert superspace("mine").stage("stage1").widths == (16, 24, 32)
    digits["stages"]["stage1"]["widths"] = [40, 48]
    file.write_text(yaml.safe_dump({**digits, "name": "mine"}, sort_keys=False))
    assert superspace("mine").stage("stage1").widths == (40, 48)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("mobilew-122222-155400", "mobilew-122222-155400"),
        ("mobilew-122222_155400", "mobilew-122222-155400"),
        ("mobilew-122222", "mobilew-122222-000000"),
        ("  onnxw-151122-023231\n", "onnxw-151122-023231"),
        ("mobilew-1.2.2.2.2.2-1.5.5.4.0.0", "mobilew-122222-155400"),
    ],
)
def test_members_are_read(text: str, written: str) -> None:
    member = parse_space(text)
    assert str(member) == written
    assert parse_space(written) == member


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mobilew", "not of the form"),
        ("mobilew-12222x-155400", "not of the form"),
        ("mobilew-122222-155400-1", "not of the form"),
        ("-122222-155400", "not of the form"),
        ("mobilew-122222-", "not of the form"),
        ("mobilew-12222-155400", "5 block indices for the stages stage1"),
        ("mobilew-122222-15540", "5 window indices for the stages stage1"),
        ("mobilew-122227-155400", "stage6: block index 7"),
        ("mobilew-122222-255400", "stage1: window index 2"),
        ("mobilew-1..2-155400", "block indices '1..2' must be one digit a stage"),
        ("mobilew-1.2.-155400", "block indices '1.2.' must be one digit a stage"),
    ],
)
def test_wrong_members_say_why(text: str, words: str) -> None:
    with pytest.raises(EncodingError) as caught:
        parse_space(text)
    assert words in str(caught.value)
    assert f"space '{text}'" in str(caught.value)


def test_a_member_of_another_superspace() -> None:
    with pytest.raises(EncodingError, match="is not of superspace onnxw"):
        parse_space("mobilew-122222-155400", within=superspace("onnxw"))
    with pytest.raises(ConfigError, match="unknown superspace 'mobilex'"):
        parse_space("mobilex-122222-155400")
