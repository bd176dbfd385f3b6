import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from spaceevo.errors import ConfigError
from spaceevo.lit.broken import BrokenImageError
from spaceevo.lit.transforms import Images, ImageTransform, PublishedAutoAugment, load_image

MEAN, STD = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)


def noise(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_evaluation_is_resize_crop_and_normalise() -> None:
    image = noise()
    out = ImageTransform(size=16, resize=20, mean=MEAN, std=STD).evaluate()(image)
    # shorter side 30 -> 20, so 40 -> 26; the centre 16 x 16 begins at row 2 and column 5
    cropped = np.asarray(image.resize((26, 20), Image.Resampling.BICUBIC))[2:18, 5:21]
    expected = (cropped / 255 - np.array(MEAN)) / np.array(STD)
    assert out.shape == (3, 16, 16)
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out.permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_training_crops_at_random_and_is_normalised() -> None:
    transform = ImageTransform(size=16, resize=16, mean=MEAN, std=STD).train()
    torch.manual_seed(0)
    first, second = transform(noise()), transform(noise())
    torch.manual_seed(0)
    assert torch.equal(transform(noise()), first)
    assert first.shape == (3, 16, 16)
    assert not torch.equal(first, second)
    white = transform(Image.new("RGB", (40, 30), "white"))
    torch.testing.assert_close(white[:, 0, 0], (1 - torch.tensor(MEAN)) / torch.tensor(STD))


@pytest.mark.parametrize("flip", [False, True])
def test_flip_mirrors_only_where_asked(flip: bool) -> None:
    whole: dict[str, Any] = {"size": 30, "resize": 30, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    transform = ImageTransform(**whole, flip=flip).train()
    image = noise(30, 30)
    same = ImageTransform(**whole).evaluate()(image)
    torch.manual_seed(0)
    outs = [transform(image) for _ in range(12)]
    mirrored = sum(torch.equal(out, same.flip(-1)) for out in outs)
    assert sum(torch.equal(out, same) for out in outs) == 12 - mirrored
    assert (0 < mirrored < 12) == flip


def test_auto_augment_is_the_published_policy() -> None:
    steps = ImageTransform(auto_augment=True).train().transforms  # type: ignore[attr-defined]
    augment = next(step for step in steps if isinstance(step, PublishedAutoAugment))
    assert len(augment.policy.policy) == 25
    operations = [operation for pair in augment.policy.policy for operation in pair]
    assert {operation.magnitude_std for operation in operations} == {0.5}
    assert {operation.kwargs["fillcolor"] for operation in operations} == {(124, 116, 104)}
    assert not any(isinstance(step, PublishedAutoAugment) for step in ImageTransform().train().transforms)  # type: ignore[attr-defined]


def test_every_operation_of_auto_augment_runs_and_posterising_keeps_4_to_8_bits() -> None:
    augment, kept = PublishedAutoAugment([124, 116, 104]), set()
    for operation in (operation for pair in augment.policy.policy for operation in pair):
        operation.prob = 1.0
        for seed in range(20):
            random.seed(seed)
            changed = operation(noise())
            if operation.name == "Posterize":
                common = int(np.bitwise_or.reduce(np.asarray(changed), axis=None))
                kept.add(8 - (common & -common).bit_length() + 1)
    assert {4, 6} <= kept <= {4, 5, 6, 7, 8}


def test_auto_augment_depends_on_torchs_generator_alone() -> None:
    augment, image = PublishedAutoAugment([124, 116, 104]), noise()
    random.seed(1)
    state = random.getstate()
    found = []
    for seed in (0, 1, 2, 3, 0):
        torch.manual_seed(seed)
        found.append(np.asarray(augment(image)))
        assert random.getstate() == state
    assert np.array_equal(found[0], found[4])
    assert any(not np.array_equal(found[0], other) for other in found[1:4])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("size", 0),
        ("resize", 223),
        ("mean", [0.5]),
        ("mean", [124, 116, 104]),
        ("std", [0.2, 0.0, 0.2]),
        ("crop_scale", [0.5, 0.2]),
        ("crop_scale", [0.5, 1.5]),
        ("crop_ratio", [0.0, 1.0]),
        ("interpolation", "bicubik"),
    ],
)
def test_bad_setting_is_named(setting: str, value: Any) -> None:
    with pytest.raises(
        (ConfigError, ValidationError), match=rf"^(data\.transform\.{setting} is .+; allowed: .+$|.*\n{setting})"
    ):
        ImageTransform(**{setting: value})


def test_yaml_lists_give_the_same_value() -> None:
    from_yaml: dict[str, Any] = {"mean": list(MEAN)}
    assert ImageTransform(**from_yaml) == ImageTransform(mean=MEAN)
    assert hash(ImageTransform(**from_yaml)) == hash(ImageTransform(mean=MEAN))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_every_image_is_loaded_as_rgb(mode: str, tmp_path: Path) -> None:
    noise().convert(mode).save(tmp_path / "a.png")
    assert load_image(str(tmp_path / "a.png")).mode == "RGB"


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
def test_broken_image_is_named_in_one_line(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise(200, 200).save(path)
    path.write_bytes(path.read_bytes()[:2000] if isinstance(content, str) else content)
    with pytest.raises(BrokenImageError) as caught:
        load_image(str(path))
    message = str(caught.value)
    assert message.startswith(f"image {path} cannot be read (")
    assert message.endswith("); replace or remove the file")
    assert "\n" not in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_what_pillow_starts_a_program_for_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ran = tmp_path / "a.png", tmp_path / "ran"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n")
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {ran}\necho 10.0\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    with pytest.raises(BrokenImageError, match="its content is no image that Pillow knows"):
        load_image(str(path))
    assert not ran.exists()


def test_draw_alone_decides_the_augmentation(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    images = Images([(str(tmp_path / "a.png"), 7)], ImageTransform(size=16, resize=16).train())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    (first, label), (other, _) = images[0, 5], images[0, 6]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(images[0, 5][0], first)
    assert not torch.equal(first, other)
    assert label == 7


def test_grey_images_are_augmented_in_colour_and_then_made_grey() -> None:
    transform = ImageTransform(size=16, resize=16, channels=1, mean=(0.4,), std=(0.2,), auto_augment=True).train()
    for seed in range(40):
        torch.manual_seed(seed)
        assert transform(noise()).shape == (1, 16, 16)
