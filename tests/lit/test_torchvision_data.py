"""Datasets of torchvision, each from a few generated files of its own format; nothing is downloaded."""

import gzip
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

import spaceevo.lit  # noqa: F401  before torchvision
from spaceevo.errors import DataError
from spaceevo.lit.torchvision_data import SOURCES, Dataset, TorchvisionDataModule
from spaceevo.lit.transforms import ImageTransform

SIZE = 12


def picture(path: Path, brightness: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE, SIZE), (brightness, brightness, brightness)).save(path, quality=100)


def pickled(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def cifar_batch(path: Path, key: str, labels: list[int]) -> None:
    data = np.repeat(np.array(labels, np.uint8)[:, None] * 20 + 10, 3072, axis=1)
    pickled(path, {"data": data, key: labels})


def cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    for number in range(1, 6):
        cifar_batch(folder / f"data_batch_{number}", "labels", [number % 3, (number + 1) % 3])
    cifar_batch(folder / "test_batch", "labels", [2, 0, 1])
    pickled(folder / "batches.meta", {"label_names": ["cat", "dog", "emu"]})


def cifar100(root: Path) -> None:
    folder = root / "cifar-100-python"
    cifar_batch(folder / "train", "fine_labels", [0, 1, 2] * 3)
    cifar_batch(folder / "test", "fine_labels", [2, 0, 1])
    pickled(folder / "meta", {"fine_label_names": ["cat", "dog", "emu"]})


def flowers102(root: Path) -> None:
    labels = [1, 2, 3, 1, 2, 3, 3, 1, 2]
    for number, label in enumerate(labels, start=1):
        picture(root / "flowers-102/jpg" / f"image_{number:05d}.jpg", (label - 1) * 20 + 10)
    savemat(root / "flowers-102/imagelabels.mat", {"labels": [labels]})
    savemat(root / "flowers-102/setid.mat", {"trnid": [[1, 2, 3]], "valid": [[4, 5, 6]], "tstid": [[7, 8, 9]]})


def oxford_iiit_pet(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    for part, order in {"trainval": (0, 1, 2), "test": (2, 0, 1)}.items():
        lines = []
        for label in order:
            name = f"{('cat', 'dog', 'emu')[label]}_{part}_{label}"
            picture(folder / "images" / f"{name}.jpg", label * 20 + 10)
            lines.append(f"{name} {label + 1} 1 1")
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")


def food101(root: Path) -> None:
    for part, numbers in {"train": range(2), "test": range(2, 3)}.items():
        names = {label: [f"{label}/{n}" for n in numbers] for label in ("cat", "dog", "emu")}
        for label, files in zip(range(3), names.values(), strict=True):
            for name in files:
                picture(root / "food-101/images" / f"{name}.jpg", label * 20 + 10)
        (root / "food-101/meta").mkdir(exist_ok=True)
        (root / f"food-101/meta/{part}.json").write_text(json.dumps(names))


def stanford_cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    files = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for part, labels in {"train": [1, 2, 3], "test": [3, 1, 2]}.items():
        rows = np.zeros((1, 3), [("fname", "O"), ("class", "O")])
        for index, label in enumerate(labels):
            picture(folder / f"cars_{part}" / f"{index}.jpg", (label - 1) * 20 + 10)
            rows[0, index] = (f"{index}.jpg", label)
        savemat(folder / files[part], {"annotations": rows})
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array([["cat", "dog", "emu"]], dtype=object)})


def fgvc_aircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b/data"
    for part, order in {"trainval": (0, 1, 2), "test": (2, 0, 1)}.items():
        lines = []
        for label in order:
            picture(folder / "images" / f"{part}{label}.jpg", label * 20 + 10)
            lines.append(f"{part}{label} {('cat', 'dog', 'emu')[label]}")
        (folder / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")
    (folder / "variants.txt").write_text("cat\ndog\nemu\n")


def packed(path: Path, content: np.ndarray) -> None:
    header = struct.pack(f">4B{content.ndim}I", 0, 0, 8, content.ndim, *content.shape)
    path.write_bytes(gzip.compress(header + content.tobytes()))


def fashion_mnist(root: Path) -> None:
    for part, labels in {"train": [0, 1, 2, 0, 1, 2], "t10k": [2, 0, 1]}.items():
        images = np.repeat(np.array(labels, np.uint8) * 20 + 10, SIZE * SIZE).reshape(-1, SIZE, SIZE)
        packed(root / f"{part}-images-idx3-ubyte.gz", images)
        packed(root / f"{part}-labels-idx1-ubyte.gz", np.array(labels, np.uint8))


WRITERS: dict[str, Callable[[Path], None]] = {
    write.__name__: write
    for write in (cifar10, cifar100, flowers102, oxford_iiit_pet, food101, stanford_cars, fgvc_aircraft, fashion_mnist)
}


def module(dataset: Any, root: Path, **settings: Any) -> TorchvisionDataModule:
    transform = ImageTransform(size=SIZE, resize=SIZE, mean=(0, 0, 0), std=(1, 1, 1), crop_scale=(1.0, 1.0), flip=False)
    settings = {"download": False, **settings}
    return TorchvisionDataModule(dataset=dataset, root=root, transform=transform, batch_size=2, **settings)


def test_every_dataset_has_a_format_here() -> None:
    assert WRITERS.keys() == SOURCES.keys() == set(get_args(Dataset))


@pytest.mark.parametrize("dataset", SOURCES)
def test_images_come_with_their_labels(dataset: str, tmp_path: Path) -> None:
    WRITERS[dataset](tmp_path)
    data = module(dataset, tmp_path)
    data.setup()
    assert data.num_classes == {"flowers102": 102, "fashion_mnist": 10}.get(dataset, 3)
    for batches in (data.test(), data.train_dataloader()):
        images, labels = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
        assert images.shape[1:] == (3, SIZE, SIZE)
        # every image was written as bright as its label says, up to JPEG
        assert torch.allclose(images.mean((1, 2, 3)) * 255, labels * 20.0 + 10, atol=2)
    tested = [int(label) for _, batch in data.test() for label in batch]
    assert tested == ([0, 1, 2] if dataset == "food101" else [2, 0, 1])


@pytest.mark.parametrize("dataset", SOURCES)
def test_an_absent_dataset_is_one_clear_line(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        module(dataset, tmp_path).setup()
    text = str(caught.value)
    assert "\n" not in text
    for part in (dataset, str(tmp_path), "torchvision.datasets.", "data.download=true"):
        assert part in text


def test_broken_images_are_named_by_their_files(tmp_path: Path) -> None:
    flowers102(tmp_path)
    for number in (1, 3, 8):
        (tmp_path / f"flowers-102/jpg/image_{number:05d}.jpg").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"^image \S+/jpg/image_\d+\.jpg cannot be read \(.+\), nor can 2 more: "
    ) as caught:
        list(module("flowers102", tmp_path).train_dataloader())
    assert all(f"image_0000{number}.jpg" in str(caught.value) for number in (1, 3, 8))


def test_a_failed_download_says_where_the_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)
    with pytest.raises(DataError, match=r"cannot be fetched \(no network\); put its files there as .*CIFAR10 lays"):
        module("cifar10", tmp_path, download=True, place=tmp_path).setup()


def test_nothing_is_fetched_to_a_folder_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = "torchvision.datasets.cifar.download_and_extract_archive"
    monkeypatch.setattr(fetch, lambda *_, **__: pytest.fail("fetched"))
    for root in (tmp_path, tmp_path / "misspelt"):
        with pytest.raises(DataError, match=rf"cifar10 in data\.root {root} is not there .* data\.place={root}$"):
            module("cifar10", root, download=True).setup()
    assert list(tmp_path.iterdir()) == []


def test_images_may_be_held_out_and_be_fewer(tmp_path: Path) -> None:
    fashion_mnist(tmp_path)
    splits = module("fashion_mnist", tmp_path, holdout=2).splits
    assert (len(splits.train), len(splits.held_out), [label for _, label in splits.test]) == (4, 2, [2, 0, 1])
    assert {name for name, _ in (*splits.train, *splits.held_out)} == {f"train/{number}" for number in range(6)}
    fewer = module("fashion_mnist", tmp_path, holdout=2, train_images=3, test_images=1).splits
    assert (fewer.train, fewer.held_out, fewer.test) == (splits.train[:3], splits.held_out[:1], splits.test[:1])


def test_a_damaged_packed_file_is_told(tmp_path: Path) -> None:
    fashion_mnist(tmp_path)
    file = tmp_path / "train-labels-idx1-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-1]))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz holds 5 bytes, \[6\] are told"):
        module("fashion_mnist", tmp_path).setup()


def test_an_unknown_dataset_names_the_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'cifar10', 'cifar100'.* input_value='mnist'"):
        module("mnist", tmp_path)
