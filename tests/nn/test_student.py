import pytest
import torch

from spaceevo.errors import EncodingError
from spaceevo.nn.student import BlockStudent
from spaceevo.quant.prepare import quantizers, set_quant
from spaceevo.quant.quantizer import DEPLOY, PUBLISHED, Scheme
from spaceevo.space.description import superspace
from spaceevo.space.spec import BlockChoice
from spaceevo.space.superspace import StageSpace

BLOCKS = [BlockChoice(5, 32, 2), BlockChoice(3, 40, 3)]


@pytest.fixture
def space() -> StageSpace:
    return superspace("digits").stage_space("stage2", 0)


@pytest.mark.parametrize("scheme", [PUBLISHED, DEPLOY])
@pytest.mark.parametrize("cin", [16, 24, 32])
@torch.no_grad()
def test_teachers_channels_go_in_and_come_out(space: StageSpace, scheme: Scheme, cin: int) -> None:
    student = BlockStudent(space, (20, 50), scheme).eval()
    student.activate(BLOCKS, cin)
    assert student(torch.randn(2, 20, 8, 8)).shape == (2, 50, 4, 4)


@torch.no_grad()
def test_the_student_is_projection_stage_projection(space: StageSpace) -> None:
    student = BlockStudent(space, (20, 50), DEPLOY).eval()
    student.activate(BLOCKS, 24)
    x = torch.randn(2, 20, 8, 8)
    weights = student.state_dict()
    first, last = weights["in_proj.convs.0.weight"], weights["out_proj.convs.0.weight"]
    y = torch.nn.functional.conv2d(x, first[:24], weights["in_proj.convs.0.bias"][:24])
    y = student.stage(y)
    expected = torch.nn.functional.conv2d(y, last[:, :40], weights["out_proj.convs.0.bias"])
    torch.testing.assert_close(student(x), expected)


@pytest.mark.parametrize(
    ("scheme", "sites"), [(PUBLISHED, {"in_proj", "out_proj"}), (DEPLOY, {"in_proj", "out_proj", "feature_quantizer"})]
)
def test_projections_are_quantised(space: StageSpace, scheme: Scheme, sites: set[str]) -> None:
    student = BlockStudent(space, (20, 50), scheme).eval()
    student.activate(BLOCKS, 24)
    x = torch.randn(2, 20, 8, 8)
    with torch.no_grad():
        exact = student(x)
        set_quant(student, True)
        rounded = student(x)
    assert 1e-4 < (rounded - exact).norm() / exact.norm() < 0.2
    assert {name.split(".")[0] for name in quantizers(student)} == sites | {"stage"}


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([BlockChoice(7, 32, 2)], "stage2, block 1: kernel 7 is not allowed; allowed: 3, 5"),
        ([BlockChoice(3, 32, 2), BlockChoice(3, 48, 2)], "stage2, block 2: width 48"),
        (BLOCKS * 2, "stage2: depth 4 is not allowed; allowed: 1, 2"),
    ],
)
def test_a_foreign_substage_is_refused(space: StageSpace, blocks: list[BlockChoice], words: str) -> None:
    student = BlockStudent(space, (20, 50), DEPLOY)
    with pytest.raises(EncodingError) as caught:
        student.activate(blocks, 24)
    assert words in str(caught.value)
