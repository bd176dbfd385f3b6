import json

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from spaceevo.errors import ExportError
from spaceevo.nn.supernet import resize
from spaceevo.quant.program import Program
from spaceevo.runtimes.base import FileOptions
from spaceevo.runtimes.litert.runtime import LiteRt
from spaceevo.runtimes.onnx.runtime import OnnxRuntime
from spaceevo.runtimes.onnx.writer import to_onnx
from spaceevo.runtimes.preprocessing import RESIZING, Preprocessing

ONNX = OnnxRuntime()
LITERT = LiteRt()

INSIDE = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256, 224, inside=True)


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(0, 256, (8, 3, 24, 24), dtype=torch.uint8)


def normalized(pixels: Tensor) -> Tensor:
    """As the data module does it."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (INSIDE.mean, INSIDE.std))
    return (pixels.float() / 255 - mean) / std


def test_onnx_files_normalise_pixels(program: Program, pixels: Tensor) -> None:
    model = to_onnx(program, options=FileOptions(INSIDE))
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].name == "pixels"
    expected = ONNX.load(to_onnx(program).SerializeToString()).logits(normalized(pixels))
    torch.testing.assert_close(ONNX.load(model.SerializeToString()).logits(pixels), expected, rtol=0, atol=0.05)
    assert not ONNX.float_ops(model.SerializeToString())


def test_tflite_files_normalise_pixels(program: Program, pixels: Tensor) -> None:
    pytest.importorskip("ai_edge_litert", reason="the extra `tflite` is not installed")
    file = LITERT.write(program, options=FileOptions(INSIDE))
    expected = LITERT.load(LITERT.write(program)).logits(normalized(pixels))
    torch.testing.assert_close(LITERT.load(file).logits(pixels), expected, rtol=0, atol=0.05)
    assert not LITERT.float_ops(file)


def test_outside_only_tells() -> None:
    outside = Preprocessing((0.5,), (0.25,), 32, 28)
    assert json.loads(outside.text()) == {
        "mean": [0.5],
        "std": [0.25],
        "resize": 32,
        "crop": 28,
        "interpolation": "bicubic",
        "reading": {},
        "inside": False,
        "channels": "grey",
        "resolution_interpolation": "bicubic, align_corners=False, antialias=False",
    }
    gain, shift = outside.factors()
    np.testing.assert_allclose(gain * 255 + shift, [2.0], rtol=1e-6)


def test_channels_must_match() -> None:
    with pytest.raises(ExportError, match=r"mean \(0.5,\) and std \(1, 2\)"):
        Preprocessing((0.5,), (1, 2), 32, 28)


def test_all_that_decides_an_image_is_told() -> None:
    settings = {"size": 28, "resize": 32, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "nearest"}
    made = Preprocessing.of({**settings, "channels": 3, "ground": [9, 8, 7], "white": None}, inside=True)
    told = json.loads(made.text())
    assert (told["mean"], told["std"], told["resize"], told["crop"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], 32, 28)
    assert (told["channels"], told["interpolation"]) == ("RGB", "nearest")
    assert told["reading"] == {"ground": [9, 8, 7], "white": None}
    assert told["inside"] is True


def test_the_resizing_told_is_the_network_s() -> None:
    mode, *words = RESIZING.split(", ")
    how = {name: value == "True" for name, _, value in (word.partition("=") for word in words)}
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(resize(images, 24), functional.interpolate(images, (24, 24), mode=mode, **how))
