"""Training images a second from a folder of JPEGs: torchvision's ImageFolder, ours, and ours kept decoded.

All with the same transforms. Without workers in processor seconds, which leave workers' out; with workers of the wall.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from plain import alternate, clock
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
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--auto-augment", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    transform = ImageTransform(auto_augment=asked.auto_augment)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        write_images(root, asked.images + 1)  # one is held out

        def ours(cache: Path | None) -> DataLoader[object]:
            settings = {"batch_size": 32, "num_workers": asked.workers, "holdout": 1, "decoded_cache": cache}
            data = ImageFolderDataModule(root=root, transform=transform, **settings)
            data.setup()
            return data.train_dataloader()

        plain = ImageFolder(str(root / "train"), transform.train())
        loaders = {
            "plain": DataLoader(plain, 32, shuffle=True, drop_last=True, num_workers=asked.workers),
            "ours": ours(None),
            "ours, kept decoded": ours(Path(folder) / "decoded"),
        }
        timer = time.perf_counter if asked.workers else clock
        forms = {name: lambda loader=loader: list(loader) for name, loader in loaders.items()}
        found = alternate(forms, asked.rounds, timer)  # type: ignore[arg-type]
        unit = "second" if asked.workers else "processor second"
        print(f"{asked.images} JPEGs of 500x375, {asked.workers} workers, auto_augment={asked.auto_augment}")
        for name, seconds in found.items():
            print(f"{name:18} {len(loaders[name]) * 32 / seconds:6.1f} images per {unit}")


if __name__ == "__main__":
    main()
