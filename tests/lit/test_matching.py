"""Images and trained networks: classes by name, images as in training, or one line that says what does not fit."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
import torch
from PIL import Image

from spaceevo.artifacts import fingerprint
from spaceevo.errors import ConfigError
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.matching import RECALIBRATED, TRAINING, check_shape, evaluation_settings, match_images, tell_transform
from spaceevo.lit.transforms import ImageTransform
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.space.description import superspace

NETWORK = "net.pth"
Make = Callable[..., ImageFolderDataModule]
SIZES: dict[str, Any] = {"size": 8, "resize": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Make:
    """Make a data module of these classes, of three images each to train on and two to test on."""

    def make(*classes: str, **transform: Any) -> ImageFolderDataModule:
        root = tmp_path / fingerprint(classes)
        for part, count in (("train", 3), ("val", 2)):
            for shade, name in enumerate(classes):
                (root / part / name).mkdir(parents=True, exist_ok=True)
                for number in range(count):
                    pixels = np.full((8, 8, 3), 30 * shade + number, np.uint8)
                    Image.fromarray(pixels).save(root / part / name / f"{number}.png")
        return ImageFolderDataModule(root=root, transform=ImageTransform(**SIZES | transform), holdout=1)

    return make


def labels(data: ImageFolderDataModule) -> list[int]:
    return torch.cat([labels for _, labels in data.test()]).tolist()


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (("a", "b", "c"), [0, 0, 1, 1, 2, 2]),
        (("c", "a", "b"), [1, 1, 2, 2, 0, 0]),
        (("x", "c", "y", "b", "a"), [4, 4, 3, 3, 1, 1]),
    ],
)
def test_labels_are_the_outputs_of_the_classes_of_the_same_name(
    folder: Make, known: Sequence[str], expected: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder("a", "b", "c")
    before, whole = labels(data), data.content_hash
    capsys.readouterr()
    assert match_images(data, CheckpointMeta(classes=tuple(known)), NETWORK, 10) == known
    assert labels(data) == expected
    assert before == [0, 0, 1, 1, 2, 2]
    trained = torch.cat([labels for _, labels in data.train_dataloader()]).tolist()
    assert set(trained) <= set(expected)
    assert (data.classes, data.content_hash) == (("a", "b", "c"), whole)
    told = f"evaluates on 3 of the network's 5 classes; {RECALIBRATED}" if len(known) == 5 else ""
    assert " ".join(capsys.readouterr().out.split()) == told
    match_images(data, CheckpointMeta(classes=tuple(known)), NETWORK, 10)  # the fp32 network after the INT8 one
    assert labels(data) == expected
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("a", "d"), r"^net.pth knows 3 classes \(a, b, c\), and not d of data.root .*; set that"),
        (("a", "b", "c", "d"), "and not d of data.root .* give it these by .stage=finetune$"),
        (tuple("ABCDEFGH"), r"and not A, B, C, D, E, … \(8 in all\) of data.root"),
        (("x" * 200, "y" * 200), f"and not {'x' * 23}…, {'y' * 23}… of data.root"),
    ],
)
def test_classes_that_the_network_does_not_know_are_refused_in_a_line(
    folder: Make, given: Sequence[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        match_images(folder(*given), CheckpointMeta(classes=("a", "b", "c")), NETWORK, 3)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_network_that_does_not_know_its_classes_takes_as_many(
    folder: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder("a", "b")
    data.setup()
    capsys.readouterr()
    assert match_images(data, CheckpointMeta(), NETWORK, 2) == ("a", "b")
    assert (
        capsys.readouterr().out
        == "class names unknown: the outputs of net.pth are taken in the order of the images' classes\n"
    )
    assert labels(data) == [0, 0, 1, 1]
    for outputs in (1, 3):
        with pytest.raises(
            ConfigError,
            match=rf"net.pth has {outputs} outputs, whose classes .* and not the 2 classes of data.root .*; set",
        ):
            match_images(data, CheckpointMeta(), NETWORK, outputs)


def test_names_are_the_same_however_their_accents_are_written(folder: Make) -> None:
    data = folder(normalize("NFD", "épée"), "z")
    match_images(data, CheckpointMeta(classes=("z", normalize("NFC", "épée"))), NETWORK, 2)
    assert sorted(labels(data)) == [0, 0, 1, 1]
    assert data.outputs in ((1, 0), (0, 1))
    assert [data.classes[label] == "z" for label in (0, 1)] == [output == 0 for output in data.outputs]


def test_training_goes_on_with_all_classes(folder: Make) -> None:
    meta = CheckpointMeta(classes=("c", "b", "a"))
    assert match_images(folder("a", "b", "c"), meta, NETWORK, 3, in_part=False) == ("c", "b", "a")
    with pytest.raises(ConfigError, match="goes on training on all its 3 classes, and misses b among those of"):
        match_images(folder("a", "c"), meta, NETWORK, 3, in_part=False)


OTHER: dict[str, Any] = {
    "reading": "published",
    "ground": (0, 0, 0),
    "white": 4095.0,
    "size": 6,
    "resize": 9,
    "channels": 1,
    "mean": (0.1, 0.2, 0.3),
    "std": (0.1, 0.2, 0.3),
    "interpolation": "nearest",
    "crop_scale": (0.5, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip": False,
    "auto_augment": True,
}


@pytest.mark.parametrize("name", [each.name for each in fields(ImageTransform)])
def test_images_go_through_what_they_went_through(folder: Make, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = {name: OTHER[name]} | ({"mean": (0.5,), "std": (0.5,)} if name == "channels" else {})
    trained = evaluation_settings(folder("a", "b"))
    meta = CheckpointMeta(classes=("a", "b"), transform=trained)
    match_images(folder("a", "b"), meta, NETWORK, 2)
    data = folder("a", "b", **other)
    if name in TRAINING:
        match_images(data, meta, NETWORK, 2)
        return
    with pytest.raises(ConfigError, match=rf"^data\.transform\..*{name}") as caught:
        match_images(data, meta, NETWORK, 2)
    message = str(caught.value)
    assert "net.pth was trained with " in message
    assert f"data.transform.{name}=" in message
    assert len(message) < 500
    capsys.readouterr()
    tell_transform(data, meta, "teacher t")
    assert f"{name}=" in capsys.readouterr().out
    assert match_images(data, CheckpointMeta(classes=("a", "b")), NETWORK, 2)  # an old file does not say


def test_the_line_says_what_to_set(folder: Make) -> None:
    meta = CheckpointMeta(classes=("a",), transform=evaluation_settings(folder("a")))
    with pytest.raises(ConfigError) as caught:
        match_images(folder("a", mean=(0.5, 0.5, 0.25)), meta, NETWORK, 1)
    assert str(caught.value) == (
        "data.transform.mean is [0.5,0.5,0.25]; net.pth was trained with data.transform.mean=[0.485,0.456,0.406]: "
        "set that, or train anew"
    )


def test_images_are_as_large_and_colourful_as_the_network_needs(folder: Make) -> None:
    digits = superspace("digits")
    data = folder("a", size=24, resize=24)
    check_shape(data, digits, 24)
    with pytest.raises(ConfigError, match="data.transform.size is 24; allowed: at least 32, the largest resolution"):
        check_shape(data, digits, 32)
    grey = folder("a", channels=1, mean=(0.5,), std=(0.5,), size=24, resize=24)
    with pytest.raises(
        ConfigError,
        match="data.transform.channels is 1; allowed: 3, since superspace digits has input_channels: 3; set",
    ):
        check_shape(grey, digits, 24)
    with pytest.raises(
        ConfigError, match="superspace digits: input_channels = 4; allowed, since images have them: 1, 3"
    ):
        check_shape(grey, replace(digits, input_channels=4), 24)


def test_a_line_is_short_however_much_differs(folder: Make) -> None:
    other = {"size": 6, "resize": 9, "mean": (0.1,), "std": (0.123456789,), "channels": 1, "interpolation": "nearest"}
    data = folder("a", "b", **other, reading="published", ground=(0, 0, 0))
    meta = CheckpointMeta(classes=("a", "b"), transform=evaluation_settings(folder("a", "b")))
    with pytest.raises(ConfigError) as caught:
        match_images(data, meta, "/home/somebody/runs/" * 5 + NETWORK, 2)
    assert len(str(caught.value)) < 500
