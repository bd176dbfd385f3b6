"""One view in every form that a file may hold it is read as one view, from a folder, from a tar and by torchvision."""

from __future__ import annotations

import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.lit.strangers import FORMS, HEIGHT, WIDTH, Form, png16, saved, seen, view

from spaceevo.errors import ConfigError, DataError
from spaceevo.lit import pixels
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.pixels import Reading, to_rgb
from spaceevo.lit.tars import TRAIN_TAR
from spaceevo.lit.torchvision_data import TorchvisionDataModule
from spaceevo.lit.transforms import Images, ImageTransform, load_image

AS_IT_IS = ImageTransform(size=HEIGHT, resize=HEIGHT, mean=(0, 0, 0), std=(1, 1, 1), flip=False)


def difference(found: Image.Image, form: Form) -> int:
    return int(np.abs(np.asarray(found).astype(int) - seen(view(), form)).max())


@pytest.mark.parametrize("name", FORMS)
def test_a_view_is_the_same_in_every_form(name: str, tmp_path: Path) -> None:
    form = FORMS[name]
    path = tmp_path / f"x{form.ending}"
    path.write_bytes(form.write(view()))
    found = load_image(str(path))
    assert (found.mode, found.size) == ("RGB", (WIDTH, HEIGHT))
    assert difference(found, form) <= form.tolerance


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all forms, as one of two classes."""
    root = tmp_path_factory.mktemp("forms") / "train"
    for label in "ab":
        (root / label).mkdir(parents=True)
        for number, form in enumerate(FORMS.values()):
            (root / label / f"{number:02d}{form.ending}").write_bytes(form.write(view()))
    return root.parent


def in_folder(files: Path, folder: Path) -> ImageFolderDataModule:
    return ImageFolderDataModule(root=files, transform=AS_IT_IS, holdout=len(FORMS))


def in_tar(files: Path, folder: Path) -> ImageFolderDataModule:
    with tarfile.open(folder / TRAIN_TAR, "w") as tar:
        tar.add(files / "train", "train")
    return in_folder(folder, folder)


def in_torchvision(files: Path, folder: Path) -> ImageFolderDataModule:
    """As pets, all named .jpg: what a file is, its content says."""
    pets = folder / "oxford-iiit-pet"
    (pets / "annotations").mkdir(parents=True)
    (pets / "images").mkdir()
    paths = sorted((files / "train").glob("*/*"))
    for number, path in enumerate(paths):
        (pets / "images" / f"cat_{number}.jpg").write_bytes(path.read_bytes())
    for part in ("trainval", "test"):
        lines = [f"{'cat' if number else 'dog'}_{number} {1 + (number > 0)} 1 1" for number in range(len(paths))]
        (pets / "annotations" / f"{part}.txt").write_text("\n".join(lines).replace("dog_0", "cat_0"))
    return TorchvisionDataModule(dataset="oxford_iiit_pet", root=folder, download=False, transform=AS_IT_IS)


@pytest.mark.parametrize("source", [in_folder, in_tar, in_torchvision])
def test_every_source_reads_every_form(
    source: Callable[[Path, Path], ImageFolderDataModule], files: Path, tmp_path: Path
) -> None:
    splits = (data := source(files, tmp_path)).splits
    samples = {*splits.train, *splits.test}
    assert len(samples) >= 2 * len(FORMS)
    images = Images(list(samples), AS_IT_IS.evaluate(), data._load())
    for index, (path, _) in enumerate(images.samples):
        image, _ = images[index]
        number = int(Path(str(path)).stem)  # in the order that they were written
        name, form = list(FORMS.items())[number % len(FORMS)]
        centre = seen(view(), form)[:, (WIDTH - HEIGHT) // 2 :][:, :HEIGHT]
        assert np.abs(image.permute(1, 2, 0).numpy() * 255 - centre).max() <= form.tolerance + 0.01, name


def read(content: bytes, folder: Path, **how: Any) -> np.ndarray:
    (folder / "x.any").write_bytes(content)
    return np.asarray(load_image(str(folder / "x.any"), Reading(**how))).astype(int)


def floats(high: float) -> bytes:
    values = np.asarray(view().convert("L")).astype(np.float32) / 255 * high
    return saved(Image.fromarray(values), "TIFF")


def test_floats_are_read_where_their_white_is_declared(tmp_path: Path) -> None:
    expected = np.asarray(view().convert("L").convert("RGB")).astype(int)
    for white in (1, 255, 1000.5):
        assert np.abs(read(floats(white), tmp_path, white=white) - expected).max() <= 1
    values = np.asarray(view().convert("L"), np.uint16) * 16
    assert np.abs(read(png16(values), tmp_path, white=4080) - expected).max() <= 1  # a camera's 12 bits
    small = saved(Image.fromarray(values.astype(np.int32)), "TIFF")
    assert np.abs(read(small, tmp_path, white=4080) - expected).max() <= 1


NAN = np.full((4, 4), np.nan, np.float32)


@pytest.mark.parametrize(
    ("content", "white", "message"),
    [
        (floats(1), None, "its pixels are floats; set data.transform.white to the value that is white, e.g. 1"),
        (floats(1.5), 1, "…1.5 are not within 0…1; set data.transform.white"),
        (floats(-1), 1, "its values -1…"),
        (saved(Image.fromarray(NAN), "TIFF"), 1, "its values nan…nan are not within 0…1; set data.transform.white"),
        (png16(np.full((4, 4), 300)), 255, "its values 300…300 are not within 0…255; set data.transform.white"),
        (
            saved(Image.fromarray(np.full((4, 4), 65535, np.int32)), "TIFF"),
            None,
            "its values end at 65535, black beside 2.14748e+09; set data.transform.white",
        ),
    ],
)
def test_values_of_no_known_range_are_refused(
    content: bytes, white: float | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"^image \S+ cannot be read \(its .+\); replace or remove the file$") as caught:
        read(content, tmp_path, white=white)
    assert message in str(caught.value)


def test_the_ground_shows_where_an_image_is_transparent(tmp_path: Path) -> None:
    for name in ("PNG, alpha", "GIF, one entry transparent", "PNG, one grey transparent, 16 bits"):
        pixels = read(FORMS[name].write(view()), tmp_path, ground=(10, 200, 30))
        assert (pixels[:8, :8] == (10, 200, 30)).all()
        assert np.abs(pixels[14:] - seen(view(), FORMS[name])[14:]).max() <= 1


@pytest.mark.parametrize("name", FORMS)
def test_the_published_reading_is_pillows_conversion(name: str, tmp_path: Path) -> None:
    content = FORMS[name].write(view())
    (tmp_path / "x").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of transparent palettes
        expected = np.asarray(Image.open(tmp_path / "x").convert("RGB"))
        assert np.array_equal(read(content, tmp_path, reading="published"), expected)


def test_an_exif_block_that_cannot_be_read_is_no_fault(tmp_path: Path) -> None:
    content = saved(view(), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xfftorn")
    assert (read(content, tmp_path) == np.asarray(view())).all()


def test_grey_images_have_one_channel() -> None:
    how = ImageTransform(size=HEIGHT, resize=HEIGHT, channels=1, mean=(0.5,), std=(0.25,), auto_augment=True)
    expected = np.asarray(view().convert("L"))[:, 2:-2] / 255
    assert np.allclose(how.evaluate()(view()).numpy(), (expected - 0.5) / 0.25, atol=1e-5)
    for seed in range(10):
        torch.manual_seed(seed)
        assert how.train()(view()).shape == (1, HEIGHT, HEIGHT)
    for given in ({"std": (0.5,)}, {"mean": (0.5,)}):
        settings: dict[str, Any] = {"channels": 1, **given}
        with pytest.raises(ConfigError, match=r"data\.transform\.(mean|std) is .+; allowed: one value a channel, 1"):
            ImageTransform(**settings)


def test_the_table_in_the_documentation_is_this_one() -> None:
    rows = [f"| {name} | {'grey' if form.grey else 'colours'} | {form.tolerance} |" for name, form in FORMS.items()]
    table = ["| file | shows | at most off by, grey levels |", "|---|---|---|", *rows]
    assert "\n".join(table) in (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("reading", ["careful", "published"])
@pytest.mark.parametrize("size", [(13_000, 13_000), (2_000_000, 1), (1, 300)])
def test_an_image_that_would_take_all_memory_is_refused(size: tuple[int, int], reading: Any) -> None:
    image = Image.new("L", (1, 1))
    image._size = size  # what its header says
    with pytest.raises(ValueError, match=rf"^it has {size[0]} × {size[1]} pixels; allowed: 67108864 in all, and sides"):
        to_rgb(image, Reading(reading=reading))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_strips_on_the_ground_are_the_whole_image_on_it(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "STRIP", 3)
    values = np.random.default_rng(0).integers(0, 256, (11, 7, 4), dtype=np.uint8)
    image = Image.fromarray(values[..., 0] if mode == "P" else values).convert(mode)
    if mode == "P":
        image.putpalette([level for level in range(256) for _ in range(3)])
        image.info["transparency"] = int(values[4, 3, 0])
    whole = Image.alpha_composite(Image.new("RGBA", image.size, (10, 200, 30)), image.convert("RGBA")).convert("RGB")
    assert np.array_equal(np.asarray(to_rgb(image, Reading(ground=(10, 200, 30)))), np.asarray(whole))
