"""From an image file to the normalised tensor a network reads, for training and for evaluation."""

import random
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from PIL import Image, UnidentifiedImageError
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from spaceevo.artifacts.values import Pixels, Positive, Share
from spaceevo.errors import ConfigError
from spaceevo.lit.broken import NAMED, BrokenImageError, cannot_be_read
from spaceevo.lit.listing import Sample, Source, image_formats
from spaceevo.lit.pixels import CAREFUL, Reading, to_rgb
from spaceevo.lit.tars import TarImage

Transform = Callable[[Image.Image], Tensor]
Load = Callable[[Source], Image.Image]
LOOKED_AT = 10_000  # Images among which further broken ones are looked for: about a minute


def load_image(path: Source, how: Reading = CAREFUL) -> Image.Image:
    """Decode an image file, or one inside a tar file, as RGB; a `BrokenImageError` names one that cannot be read."""
    try:
        with Image.open(path.read() if isinstance(path, TarImage) else path, formats=image_formats()) as image:
            return to_rgb(image, how)
    except UnidentifiedImageError as error:
        raise cannot_be_read([path], "its content is no image that Pillow knows") from error
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, ValueError, struct.error, …
        raise cannot_be_read([path], str(error) or type(error).__name__) from error


@dataclass(frozen=True, kw_only=True)
class ImageTransform(Reading):
    """Says how images are read and transformed."""

    # height and width of what comes out, in pixels: an elastic network's largest resolution; it resizes on its device
    size: Pixels = 224
    resize: Pixels = 256  # length of the shorter side before the centre crop of evaluation, in pixels
    channels: Literal[1, 3] = 3  # of what comes out: RGB, or grey by Pillow's luma
    mean: tuple[Share, ...] = (0.485, 0.456, 0.406)  # of each channel, of pixels in 0…1
    std: tuple[Positive, ...] = (0.229, 0.224, 0.225)
    crop_scale: tuple[Share, Share] = (0.08, 1.0)  # shares of the image's area that a random crop of training takes
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)  # least and greatest width / height of that crop
    flip: bool = True  # whether training mirrors every second image, at random
    auto_augment: bool = False  # whether training applies `PublishedAutoAugment`, the mean colour filling the border
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"  # of crops and resizes

    def __post_init__(self) -> None:
        checks: list[tuple[bool, str, object, str]] = [
            (len(self.mean) == self.channels, "mean", self.mean, f"one value a channel, {self.channels}"),
            (len(self.std) == self.channels, "std", self.std, f"one value a channel, {self.channels}"),
            (self.resize >= self.size, "resize", self.resize, f"at least size ({self.size})"),
            (0 < self.crop_scale[0] <= self.crop_scale[1], "crop_scale", self.crop_scale, "0 < low <= high <= 1"),
            (self.crop_ratio[0] <= self.crop_ratio[1], "crop_ratio", self.crop_ratio, "0 < low <= high"),
        ]
        for holds, name, value, allowed in checks:
            if not holds:
                raise ConfigError(f"data.transform.{name} is {value}; allowed: {allowed}")

    def train(self) -> Transform:
        """Build the random transform of training, from an RGB image to float32 `(channels, H, W)`.

        It draws from torch's global generator, like all of torchvision.
        """
        mode = v2.InterpolationMode(self.interpolation)
        steps: list[Any] = [v2.RandomResizedCrop(self.size, self.crop_scale, self.crop_ratio, mode)]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.auto_augment:
            steps.append(PublishedAutoAugment([round(255 * value) for value in self.mean * (3 // self.channels)]))
        transform: Transform = v2.Compose([*steps, *self._grey, self._normalise])
        return transform

    def evaluate(self) -> Transform:
        """Build the fixed transform of evaluation and calibration, from an RGB image to float32 `(channels, H, W)`."""
        resize = v2.Resize(self.resize, v2.InterpolationMode(self.interpolation))
        transform: Transform = v2.Compose([*self._grey, resize, v2.CenterCrop(self.size), self._normalise])
        return transform

    @property
    def _grey(self) -> list[Any]:
        return [v2.Grayscale()] if self.channels == 1 else []

    def _normalise(self, image: Image.Image) -> Tensor:
        pixels = functional.to_dtype(functional.pil_to_tensor(image), torch.float32, scale=True)
        normalised: Tensor = functional.normalize(pixels, list(self.mean), list(self.std), inplace=True)
        return normalised


class PublishedAutoAugment:
    """Applies AutoAugment's policy v0 of the TF implementation, as timm has it: standard deviation .5 of magnitudes.

    As published, posterising keeps 4 to 8 bits: timm's own 0 to 4 can make an image black, and Pillow refuses 0 bits.
    timm draws from Python's global generator; here it is seeded from torch's, and left as it was. The colour `fill`,
    0…255 each, moves into the image.
    """

    def __init__(self, fill: Sequence[int]) -> None:
        from timm.data.auto_augment import LEVEL_TO_ARG, auto_augment_transform

        self.policy = auto_augment_transform("v0-mstd0.5", {"img_mean": tuple(fill)})
        for operation in (operation for pair in self.policy.policy for operation in pair):
            if operation.name == "Posterize":
                operation.level_fn = LEVEL_TO_ARG["PosterizeOriginal"]

    def __call__(self, image: Image.Image) -> Image.Image:
        """Apply a sub-policy sampled at random."""
        before = random.getstate()
        random.seed(int(torch.randint(2**62, ())))
        try:
            changed: Image.Image = self.policy(image)
        finally:
            random.setstate(before)
        return changed


class Images(Dataset[tuple[Tensor, int]]):
    """Gives images, decoded as RGB and transformed when asked for.

    Args:
        samples: images and their labels.
        transform: makes a tensor of an image.
        load: decodes an image.
        every: all images of the data set: when one is broken, up to twenty are looked for among these.
    """

    def __init__(
        self, samples: Sequence[Sample], transform: Transform, load: Load = load_image, every: Sequence[Sample] = ()
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.load = load
        self.every = every

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, int]:
        """Load one image `(C, H, W)` and its label; the second number of a pair seeds the transform's randomness."""
        index, draw = key if isinstance(key, tuple) else (key, 0)
        path, label = self.samples[index]
        try:
            image = self.load(path)
        except BrokenImageError as error:
            others = (other for other, _ in dict.fromkeys(self.every[:LOOKED_AT]) if other != path)
            broken = islice(filter(None, map(self._broken, others)), NAMED - 1)
            raise cannot_be_read([error.image, *broken], error.reason) from error
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw)  # torch.manual_seed would reseed the GPUs too
            return self.transform(image), label

    def _broken(self, path: Source) -> str | None:
        """The name of an image that cannot be read; None of any other."""
        try:
            self.load(path)
        except BrokenImageError as error:
            return error.image
        return None
