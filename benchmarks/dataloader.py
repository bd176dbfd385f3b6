"""Training images a second from a folder of JPEGs: ours, and torchvision's ImageFolder with the same transforms."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plain import alternate
from torch.utils.data import DataLoader

from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.transforms import ImageTransform


def write_images(root: Path, count: int) -> None:
    """Photograph-sized JPEGs of smooth noise in four classes."""
    rng = np.random.default_rng(0)
    for index in range(count):
        folder = root / "train" / f"class{index % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=90)


def main() -> None:
    """Measure and print."""
    from torchvision.datasets import ImageFolder  # once the package has made torchvision importable

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--auto-augment", action="store_true")
    asked = parser.parse_args()
    transform = ImageTransform(auto_augment=asked.auto_augment)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root, asked.images)
        settings = {"batch_size": 32, "num_workers": asked.workers, "holdout": 1}
        data = ImageFolderDataModule(root=root, transform=transform, **settings)
        data.setup()
        plain = DataLoader(
            ImageFolder(str(root / "train"), transform.train()), 32, shuffle=True, num_workers=asked.workers
        )
        delivered = {"plain": asked.images, "ours": sum(len(images) for images, _ in data.train_dataloader())}
        found = alternate({"plain": lambda: list(plain), "ours": lambda: list(data.train_dataloader())}, 2)
        print(f"{asked.images} JPEGs of 500x375, {asked.workers} workers, {torch.get_num_threads()} thread(s)")
        for name, seconds in found.items():
            print(f"{name:5} {delivered[name] / seconds:6.1f} images per processor second")


if __name__ == "__main__":
    main()
