"""Real images without a download: scikit-learn's handwritten digits as an image folder."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
from PIL import Image

from spaceevo.artifacts import Neutral

VAL_SHARE = 0.25


def write_digits(
    root: str | Path,
    *,
    place: Annotated[Path | None, Neutral("the images count by their content, wherever they lie")] = None,
    seed: int = 0,
) -> None:
    """Write 1,797 digits, 8 × 8 pixels, as `root/train/<digit>/*.png` and `root/val/<digit>/*.png`.

    A quarter of each class goes to `val`. The tree is built beside `root` and renamed when it is whole, so a killed run
    leaves nothing at `root`. Nothing is written where `root` holds anything already, or is not `place`: a user's own
    folder, misspelt perhaps. Without `place` any folder will do. `seed` decides which digits go to `val`.
    """
    root = Path(root)
    elsewhere = place is not None and root.resolve() != Path(place).expanduser().resolve()
    if elsewhere or root.is_file() or (root.is_dir() and any(root.iterdir())):
        return
    # scikit-learn takes a second to import, and only the first run needs it
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    parts = train_test_split(np.arange(len(pixels)), test_size=VAL_SHARE, random_state=seed, stratify=digits.target)
    root.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as temporary:
        tree = Path(temporary) / root.name
        for name, indices in zip(("train", "val"), parts, strict=True):
            for index in indices:
                path = tree / name / str(digits.target[index]) / f"{index:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels[index]).save(path)
        try:
            tree.rename(root)
        except OSError:
            if not (root / "train").is_dir():  # else another process wrote the same tree meanwhile
                raise
