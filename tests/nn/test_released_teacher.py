"""Random weights under the names of the published teacher."""

from pathlib import Path

import pytest
import torch

import spaceevo
from spaceevo.nn.loading import read_released
from spaceevo.quant.prepare import prepare, quantizers, set_quant
from spaceevo.torchvision_shim import ensure_torchvision
from tests.nn.published_teacher import b5_blocks, reference_teacher, teacher_state


@pytest.mark.slow
@torch.no_grad()
def test_the_published_teacher(tmp_path: Path) -> None:
    """Random weights under the package's names: timm's EfficientNet-B5 computes what the description says."""
    ensure_torchvision()
    import timm

    state, path = teacher_state(48, b5_blocks(), 2048, 10), tmp_path / "lsq.pth"
    torch.save({"model": state, "epoch": 0, "optimizer": {}}, path)
    model = prepare(timm.create_model("tf_efficientnet_b5", num_classes=10)).eval()
    released = read_released(path)
    assert (released.kind, released.int8) == ("teacher", True)
    loaded = spaceevo.load_released(model, path)
    assert loaded.unused == ()
    assert loaded.quantised == len(released.sites) == len(quantizers(model)) / 2
    set_quant(model, True)
    x = torch.randn(1, 3, 64, 64)
    expected = reference_teacher(state, b5_blocks(), x)
    assert ((model(x) - expected).norm() / expected.norm()).item() < 1e-3
