"""Describes what images go through before a network sees them: told in a file's metadata, or done in the file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from spaceevo.errors import ExportError

INSIDE_NAME = "pixels"
"""Input of files that normalise: uint8 pixels; the others' is `images`, already normalised."""


@dataclass(frozen=True)
class Preprocessing:
    """Describes the way from a picture to a network's input, as in evaluation."""

    mean: tuple[float, ...]  # mean of each channel, for pixels 0…1
    std: tuple[float, ...]  # standard deviation of each channel
    resize: int  # length of the shorter side after the first resizing, in pixels
    crop: int  # side of the centre crop taken then; the network's resolution is reached by resizing that, bicubically
    interpolation: str = "bicubic"  # method of the first resizing
    inside: bool = False  # whether the file normalises: it then takes uint8 pixels of the network's resolution

    def __post_init__(self) -> None:
        """Check that mean and std are of the same channels; raises `ExportError` where they are not."""
        if len(self.mean) != len(self.std):
            raise ExportError(f"preprocessing: mean {self.mean} and std {self.std} need a number per channel each")

    def text(self) -> str:
        """Write it down for a file's metadata."""
        return json.dumps(asdict(self))

    def factors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute gain and shift of each channel: `(pixels/255 − mean)/std` is `pixels·gain + shift`."""
        std = np.array(self.std)
        return (1 / (255 * std)).astype(np.float32), (-np.array(self.mean) / std).astype(np.float32)
