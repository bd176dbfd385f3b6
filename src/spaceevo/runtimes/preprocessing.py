"""Describes what images go through before a network sees them: told in a file's metadata, or done in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from spaceevo.artifacts import Plain
from spaceevo.errors import ExportError

RESIZING = "bicubic, align_corners=False, antialias=False"  # What `nn.supernet.resize` does, in torch's words
INSIDE_NAME = "pixels"  # Input of files that normalise: uint8 pixels; the others' is `images`, already normalised


@dataclass(frozen=True)
class Preprocessing:
    """Describes the way from a picture to a network's input, as in evaluation."""

    mean: tuple[float, ...]  # mean of each channel, for pixels 0…1
    std: tuple[float, ...]  # standard deviation of each channel
    resize: int  # length of the shorter side after the first resizing, in pixels
    crop: int  # side of the centre crop taken then; the network's resolution is reached by resizing that, bicubically
    interpolation: str = "bicubic"  # method of the first resizing
    reading: Mapping[str, Plain] = field(default_factory=dict)  # how files become pixels, as `data.transform` has it
    inside: bool = False  # whether the file normalises: it then takes uint8 pixels of the network's resolution

    def __post_init__(self) -> None:
        """Check that mean and std are of the same channels; raises `ExportError` where they are not."""
        if len(self.mean) != len(self.std):
            raise ExportError(f"preprocessing: mean {self.mean} and std {self.std} need a number per channel each")

    def text(self) -> str:
        """Write it down for a file's metadata, with the order of colours and the way to the network's resolution."""
        order = "RGB" if len(self.mean) == 3 else "grey"
        return json.dumps({**asdict(self), "channels": order, "resolution_interpolation": RESIZING})

    @classmethod
    def of(cls, settings: Mapping[str, Plain], *, inside: bool) -> Preprocessing:
        """Take the settings that decide an image in evaluation, as `data.transform` names them."""
        known = ("mean", "std", "resize", "size", "interpolation", "channels")
        mean, std, resize, crop, interpolation = (settings[name] for name in known[:5])
        reading = {name: value for name, value in settings.items() if name not in known}
        return cls(tuple(mean), tuple(std), resize, crop, interpolation, reading, inside)

    def factors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute gain and shift of each channel: `(pixels/255 − mean)/std` is `pixels·gain + shift`."""
        std = np.array(self.std)
        return (1 / (255 * std)).astype(np.float32), (-np.array(self.mean) / std).astype(np.float32)
