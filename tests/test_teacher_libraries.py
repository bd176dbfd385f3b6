"""Any classifier of timm or torchvision teaches, once its taps are named."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from spaceevo.errors import ConfigError
from spaceevo.quant.prepare import prepare, quantizers, set_quant
from spaceevo.teacher import Teacher, make_teacher

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
