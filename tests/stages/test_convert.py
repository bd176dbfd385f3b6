import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from spaceevo.artifacts import Layout, SpaceChoice
from spaceevo.errors import CheckpointError, ConfigError, MissingArtifactError
from spaceevo.nn.loading import load_state, read_checkpoint
from spaceevo.nn.student import BlockStudent
from spaceevo.quant.prepare import quantizers
from spaceevo.quant.quantizer import DEPLOY, PUBLISHED
from spaceevo.space.description import superspace
from spaceevo.teacher import TeacherConfig, load_teacher
from tests.nn.published import published, trained
from tests.nn.published_teacher import b5_blocks, reference_teacher, teacher_state
from tests.stages.conftest import SPACE, Compose, RunStage


def student(tmp_path: Path, int8: bool) -> tuple[BlockStudent, Path]:
    source = BlockStudent(superspace("digits").stage_space("stage2", 1), (20, 28), PUBLISHED)
    trained(source, scheme_on=int8)
    path = tmp_path / "released" / "stage2_1" / ("lsq.pth" if int8 else "checkpoint.pth")
    path.parent.mkdir(parents=True)
    torch.save({"model": published(source), "epoch": 4, "optimizer": {}, "lr_schduler": {}}, path)
    return source, path


@pytest.mark.parametrize("int8", [True, False], ids=["int8", "fp32"])
@pytest.mark.parametrize("block", [None, "stage2_1"])
def test_blocks(run_stage: RunStage, tmp_path: Path, int8: bool, block: str | None) -> None:
    """The block is the file's folder, as published, or `block=…`."""
    source, path = student(tmp_path, int8)
    if block:
        path = path.rename(tmp_path / "any.pth")
    result = run_stage("convert", "superspace=digits", f"checkpoint={path}", *([f"block={block}"] if block else []))
    target = tmp_path / "runs/checkpoints/block_kd/digits/stage2_1" / ("lsq.pth" if int8 else "checkpoint.pth")
    assert result.outputs == {"checkpoint": str(target)}
    assert result.figures["kind"] == "block"
    assert result.figures["epochs"] == 5
    checkpoint = read_checkpoint(target, "block", "")
    assert checkpoint.meta.quant == ("published" if int8 else "off")
    loaded = BlockStudent(superspace("digits").stage_space("stage2", 1), (20, 28), PUBLISHED if int8 else DEPLOY)
    load_state(loaded, checkpoint.state, target, strict=True)
    x = torch.randn(2, 20, 4, 4)
    for form in (source, loaded):
        form.eval().activate(form.space.largest, max(form.space.cins))
        for quantizer in quantizers(form).values():
            quantizer.turn(int8)
    with torch.no_grad():
        assert torch.equal(source(x), loaded(x))


def test_a_space_that_was_found_leaves_a_block_current(
    compose: Compose, made_anew: Callable[[DictConfig], bool], tmp_path: Path
) -> None:
    config = compose("convert", "superspace=digits", f"checkpoint={student(tmp_path, int8=False)[1]}")
    assert made_anew(config)
    SpaceChoice(SPACE, (1.0,), 1.0, 1.0, 1.0).write(Layout(Path(config.paths.checkpoints)).space_choice("digits"))
    assert not made_anew(config)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ([], ConfigError, "checkpoint = null; set checkpoint="),
        (["checkpoint=absent.pth"], MissingArtifactError, "absent.pth does not exist"),
        (["checkpoint={file}"], ConfigError, "does not say which block"),
        (["checkpoint={file}", "block=stage2_9"], ConfigError, "block index 9 is not one of"),
        (["checkpoint={file}", "block=stage1_0"], CheckpointError, "belongs to another network"),
    ],
)
def test_faults(run_stage: RunStage, tmp_path: Path, settings: list[str], error: type[Exception], words: str) -> None:
    file = student(tmp_path, int8=True)[1].rename(tmp_path / "any.pth")
    with pytest.raises(error, match=words):
        run_stage("convert", "superspace=digits", *[setting.format(file=file) for setting in settings])
    assert not (tmp_path / "runs/checkpoints").exists()


@pytest.mark.slow
def test_the_teacher(run_stage: RunStage, tmp_path: Path) -> None:
    """After conversion it is loaded like one that was trained here, and computes what the description says."""
    state, path = teacher_state(48, b5_blocks(), 2048, 1000), tmp_path / "lsq.pth"
    torch.save({"model": state, "epoch": 0}, path)
    result = run_stage("convert", "superspace=mobilew", f"checkpoint={path}")
    assert (result.figures["kind"], result.figures["precision"]) == ("teacher", "int8")
    import timm

    model = functools.partial(timm.create_model, "tf_efficientnet_b5")
    config = TeacherConfig("efficientnet_b5", model, {"stage0": "blocks.0", "stage6": "blocks.6"}, "pretrained")
    teacher = load_teacher(config, Layout(tmp_path / "runs/checkpoints"), 1000, True, "")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = reference_teacher(state, b5_blocks(), x)
        assert ((teacher(x) - expected).norm() / expected.norm()).item() < 1e-3
    assert [feature.shape[1] for feature in teacher.features(x, "stage0", "stage6")] == [24, 512]
