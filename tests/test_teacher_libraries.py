"""Any classifier of timm or torchvision teaches, once its taps are named."""

import logging
import socket
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from spaceevo.artifacts import Layout
from spaceevo.errors import CheckpointError, ConfigError
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.quant.prepare import prepare, quantizers, set_quant
from spaceevo.teacher import Teacher, TeacherConfig, load_teacher, make_teacher
from tests.nn.published_teacher import TeacherBlock, reference_teacher, teacher_state

TEACHERS = {
    "torchvision": (
        "{_target_: torchvision.models.get_model, _partial_: true, name: mobilenet_v3_small}",
        {"stage0": "features.1", "stage1": "features.3", "stage2": "features.8"},
        [16, 24, 48],
    ),
    "timm": (
        "{_target_: timm.create_model, _partial_: true, model_name: tf_efficientnet_lite0}",
        {"stage0": "blocks.0", "stage1": "blocks.1", "stage2": "blocks.3"},
        [16, 24, 80],
    ),
}


def teacher(library: str, taps: dict[str, str]) -> Teacher:
    model = OmegaConf.create(TEACHERS[library][0])
    config = instantiate({"_target_": "spaceevo.teacher.TeacherConfig", "name": library, "model": model, "taps": taps})
    return make_teacher(config, num_classes=7).eval()


@pytest.mark.parametrize("library", TEACHERS)
@torch.no_grad()
def test_features_at_the_taps(library: str) -> None:
    _, taps, channels = TEACHERS[library]
    made = teacher(library, taps)
    x = torch.randn(2, 3, 64, 64)
    features = made.features(x, *taps)
    assert [feature.shape[1] for feature in features] == channels
    assert [feature.shape[2] for feature in features][0] > features[-1].shape[2]
    assert made(x).shape == (2, 7)
    prepare(made.model)
    torch.testing.assert_close(made.features(x, *taps), features)
    set_quant(made.model, True)
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(made.features(x, *taps), features, strict=True)]
    assert all(0 < error < 0.2 for error in errors)
    assert any(quantizer.initialized for quantizer in quantizers(made).values())


def test_a_tap_that_is_no_module_is_named() -> None:
    with pytest.raises(ConfigError, match=r"teacher tap stage0: the model has no module 'features.99'; allowed: "):
        teacher("torchvision", {"stage0": "features.99"})


def resnet() -> TeacherConfig:
    """A small teacher."""
    block = {"_target_": "hydra.utils.get_class", "path": "timm.models.resnet.BasicBlock"}
    model = {"_target_": "timm.models.resnet.ResNet", "_partial_": True, "block": block}
    model |= {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 10]}
    taps = {"stage0": "act1", "stage1": "layer1", "stage2": "layer4"}
    made: TeacherConfig = instantiate(
        {"_target_": "spaceevo.teacher.TeacherConfig", "name": "small", "model": model, "taps": taps}
    )
    return made


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("classes", [7, 12, 10])
def test_a_teacher_of_other_classes_serves_by_its_taps(
    tmp_path: Path, classes: int, int8: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config, layout, x = resnet(), Layout(tmp_path), torch.randn(2, 3, 32, 32)
    made = make_teacher(config, classes).eval()
    if int8:
        prepare(made.model)
        set_quant(made, True)
        made(x)
    save_checkpoint(layout.teacher("small", int8), made, CheckpointMeta(teacher="small"))
    read = load_teacher(config, layout, 10, int8, "train it")
    for stage in config.taps:
        assert torch.equal(*read.features(x, stage), *made.features(x, stage))
    told = [f"teacher small knows {classes} classes, the images have 10: only its features are read"]
    assert [record.getMessage() for record in caplog.records] == (told if classes != 10 else [])


def test_another_network_is_no_teacher_of_other_classes(tmp_path: Path) -> None:
    config, layout = resnet(), Layout(tmp_path)
    save_checkpoint(layout.teacher("small", False), nn.Linear(3, 12), CheckpointMeta())
    with pytest.raises(CheckpointError, match="belongs to another network"):
        load_teacher(config, layout, 10, False, "train it")


def test_a_teacher_of_grey_images() -> None:
    teacher = make_teacher(resnet(), 10, channels=1).eval()
    assert teacher(torch.randn(2, 1, 32, 32)).shape == (2, 10)
    assert teacher.channels("stage1", "stage2") == (8, 10)


def test_a_released_teacher_of_a_thousand_classes_serves_twenty(tmp_path: Path) -> None:
    layout, block = Layout(tmp_path), TeacherBlock(3, 1, 1, 32, 16)
    state = teacher_state(32, [block], 1280, 1000)
    path = layout.teacher("lite", True)
    path.parent.mkdir(parents=True)
    torch.save({"model": state, "epoch": 0}, path)
    model = {"_target_": f"{__name__}.short_efficientnet", "_partial_": True}
    config = instantiate(
        {"_target_": "spaceevo.teacher.TeacherConfig", "name": "lite", "model": model, "taps": {"stage0": "blocks.0"}}
    )
    teacher, x = load_teacher(config, layout, 20, True, "train it"), torch.randn(1, 3, 32, 32)
    assert teacher(x).shape == (1, 1000)
    expected = reference_teacher(state, [block], x)
    assert ((teacher(x) - expected).norm() / expected.norm()).item() < 1e-3


def short_efficientnet(num_classes: int) -> nn.Module:
    """Make the first block of an EfficientNet, and its head."""
    import timm

    model: nn.Module = timm.create_model("tf_efficientnet_b0", num_classes=num_classes)
    model.blocks = model.get_submodule("blocks")[:1]  # type: ignore[index]
    model.conv_head = nn.Conv2d(16, 1280, 1, bias=False)
    return model


def unreachable(num_classes: int, pretrained: bool = False) -> nn.Module:
    """Make a classifier whose library cannot fetch weights."""
    if pretrained:
        logging.getLogger("huggingface_hub.utils").warning("Retrying in 1s")
        raise OSError("no route\nto host")
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))


@pytest.mark.parametrize("quant", [False, True], ids=["fp32", "int8"])
def test_a_teacher_without_weights_stops_unless_random_ones_are_asked_for(
    tmp_path: Path, quant: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = TeacherConfig("far", unreachable, {"stage0": "0"}, "pretrained")
    with pytest.raises(ConfigError, match=r"cannot be fetched \(no route\); .*set teacher.weights=random") as told:
        load_teacher(config, Layout(tmp_path), 5, quant, "train it")
    assert len(str(told.value)) < 400
    assert not [record for record in caplog.records if "huggingface" in record.name]
    teacher = load_teacher(replace(config, weights="random"), Layout(tmp_path), 5, quant, "train it")
    assert teacher(torch.randn(2, 3, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize("answers", [False, True])
def test_weights_out_of_reach_are_tried_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: bool) -> None:
    """A server that refuses, or that takes the call and says nothing: no file is tried for 20 s."""
    timm = import_module("timm")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:
            server.listen()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("spaceevo.teacher.PATIENCE_S", 0.1)
        slept: list[float] = []
        monkeypatch.setattr("time.sleep", slept.append)
        config = TeacherConfig("far", partial(timm.create_model, "resnet10t"), {"stage0": "act1"}, "pretrained")
        with pytest.raises(ConfigError, match=rf"cannot be fetched \({endpoint}: .*; go online, .*weights=random"):
            make_teacher(config, 10, pretrained=True)
    assert slept == []
    assert not import_module("huggingface_hub.constants").HF_HUB_OFFLINE


def test_kept_weights_serve_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(num_classes: int, pretrained: bool = False) -> nn.Module:
        assert import_module("huggingface_hub.constants").HF_HUB_OFFLINE
        return nn.Sequential(nn.Conv2d(3, num_classes, 3))

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert make_teacher(TeacherConfig("near", kept, {"stage0": "0"}), 10, pretrained=True).tap("stage0") == "0"
