"""Fashion-MNIST as torchvision has it, or from its four packed files as they are distributed."""

import gzip
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

HEADER = 4  # bytes before the sizes: two zeros, the type (8: uint8), the number of axes
UINT8 = 8


class FashionMNIST(datasets.FashionMNIST):  # type: ignore[misc]
    """Reads `root/*-ubyte.gz` where they lie there, as in Debian's `dataset-fashion-mnist`; else as torchvision."""

    def _packed(self, of: str) -> Path:
        return Path(self.root) / f"{'train' if self.train else 't10k'}-{of}-ubyte.gz"

    def _check_exists(self) -> bool:
        packed = self._packed("images-idx3").is_file() and self._packed("labels-idx1").is_file()
        return packed or bool(super()._check_exists())

    def _load_data(self) -> tuple[Tensor, Tensor]:
        if not self._packed("images-idx3").is_file():
            images, labels = super()._load_data()
            return images, labels
        return read_idx(self._packed("images-idx3")), read_idx(self._packed("labels-idx1")).long()


def read_idx(path: Path) -> Tensor:
    """Read a packed IDX file of bytes as uint8 `(N, …)`; a `ValueError` says that it is none."""
    content = gzip.decompress(path.read_bytes())
    if len(content) < HEADER or content[:2] != b"\0\0" or content[2] != UINT8:
        raise ValueError(f"{path} is no IDX file of bytes")
    axes = content[3]
    start = HEADER + 4 * axes
    shape = np.frombuffer(content[HEADER:start], ">u4").tolist()
    if len(shape) < axes or len(content) - start != math.prod(shape):
        raise ValueError(f"{path} holds {len(content) - start} bytes, {shape} are told")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())
