"""Images where there are none: noise, to try what does not depend on what is seen."""

from collections.abc import Sequence
from functools import cached_property

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from spaceevo.artifacts.values import Count
from spaceevo.lit.datamodule import Batch, ImageFolderDataModule

CALIBRATION, TEST = 64, 32
"""Numbers of images for statistics and ranges, and to compare files on."""


@dataclass(kw_only=True, eq=False, repr=False)
class RandomImages(ImageFolderDataModule):
    """Gives seeded noise that differs in contrast and brightness, as photographs do; no file is looked at."""

    number_of_classes: Count  # which are named by their numbers

    @property
    def classes(self) -> tuple[str, ...]:
        """The numbers of the classes."""
        return tuple(map(str, range(self.number_of_classes)))

    @cached_property
    def content_hash(self) -> str:
        """What decides the images besides `transform`."""
        return f"random {self.seed}"

    @property
    def calibrated_on(self) -> int:
        """The number of images that batch norm is recalibrated on."""
        return CALIBRATION

    @property
    def tested_on(self) -> int:
        """The number of images that networks are tested on."""
        return TEST

    def calibration_images(self) -> Sequence[Tensor]:
        """Return one batch `(N, C, H, W)`."""
        return [self._noise(0, CALIBRATION)]

    def test(self) -> Sequence[Batch]:
        """Return one batch of others; their labels mean nothing."""
        return [(self._noise(1, TEST), torch.zeros(TEST, dtype=torch.long))]

    def _noise(self, part: int, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(2 * self.seed + part)
        size, channels = self.transform.size, self.transform.channels
        contrast = 1.5 * torch.rand(count, 1, 1, 1, generator=generator)
        brightness = torch.randn(count, 1, 1, 1, generator=generator)
        return torch.randn(count, channels, size, size, generator=generator) * contrast + brightness
