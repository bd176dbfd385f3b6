"""How an image, whatever its file holds, becomes RGB pixels of 8 bits."""

import math
from contextlib import suppress
from dataclasses import fields
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le
from PIL import Image, ImageOps
from pydantic.dataclasses import dataclass

from spaceevo.artifacts.values import Positive

MOST_PIXELS = 2**26  # 200 MB as RGB
STRIP = 512  # Rows
MOST_RATIO = 256  # Of its sides: the shorter one is enlarged to some hundred pixels, and the other with it
BITS, SAMPLE_FORMAT, UNSIGNED = 258, 339, 1  # TIFF tags, and a value of the second
Byte = Annotated[int, Ge(0), Le(255)]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Says how the pixels of an image file are understood."""

    # `careful`: as `to_rgb` says; `published`: Pillow's plain conversion, by which the published figures were measured
    reading: Literal["careful", "published"] = "careful"
    ground: tuple[Byte, Byte, Byte] = (255, 255, 255)  # RGB colour below what is transparent
    # value that is white in images of more than 8 bits a pixel and channel, black being 0; None: the largest that their
    # integers can hold, and images of floats are refused
    white: Positive | None = None


CAREFUL = Reading()


def how_read(how: Reading) -> str:
    """Return a text that is the same for all that read images the same way."""
    return repr([getattr(how, field.name) for field in fields(Reading)])


def to_rgb(image: Image.Image, how: Reading) -> Image.Image:
    """Convert an open image to RGB of 8 bits.

    It is turned as its EXIF says, its range is scaled to 0…255, and what is transparent shows the ground. Of several
    frames the first is taken; CMYK and palettes are converted as Pillow does, colour profiles are not applied.

    Raises:
        ValueError: it is too large, or its values have no known range, or lie outside it.
        Exception: whatever Pillow raises of broken files.
    """
    if math.prod(image.size) > MOST_PIXELS or max(image.size) > MOST_RATIO * min(image.size):
        size = f"{image.width} × {image.height}"
        raise ValueError(f"it has {size} pixels; allowed: {MOST_PIXELS} in all, and sides up to {MOST_RATIO} to 1")
    if how.reading == "published":
        return image.convert("RGB")
    _align_transparent(image)
    image.load()
    with suppress(Exception):  # an EXIF block that cannot be read says nothing of the image's orientation
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode[0] in "IF":
        image = _eight_bits(image, how.white)
    if image.has_transparency_data:
        return _on_ground(image, how.ground)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_ground(image: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
    """What is transparent shows the ground; strip by strip, since a whole image would be held four times."""
    found = Image.new("RGB", image.size)
    for top in range(0, image.height, STRIP):
        strip = image.crop((0, top, image.width, min(top + STRIP, image.height))).convert("RGBA")
        found.paste(Image.alpha_composite(Image.new("RGBA", strip.size, ground), strip).convert("RGB"), (0, top))
    return found


def _align_transparent(image: Image.Image) -> None:
    """Bring the transparent value of a PNG of 2, 4 or 16 bits to the 8 bits that Pillow reads its pixels with."""
    value, tiles = image.info.get("transparency"), getattr(image, "tile", ())
    stored = tiles[0][3] if tiles else ""  # its arguments, which have a name from Pillow 11.1 on
    if isinstance(value, int) and stored in ("L;2", "L;4"):
        image.info["transparency"] = value * (85 if stored == "L;2" else 17)
    elif isinstance(value, tuple) and stored == "RGB;16B":
        image.info["transparency"] = tuple(channel >> 8 for channel in value)


def _eight_bits(image: Image.Image, white: float | None) -> Image.Image:
    """A grey image of 16 or 32 bits or of floats as one of 8; a transparent value stays transparent."""
    values, largest = _values(image)
    white = white or largest
    if white is None:
        raise ValueError("its pixels are floats; set data.transform.white to the value that is white, e.g. 1")
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= white:  # NaN is refused too
        remedy = "no value of data.transform.white shows negative ones" if low < 0 else "set data.transform.white"
        raise ValueError(f"its values {low:g}…{high:g} are not within 0…{white:g}; {remedy}")
    if image.mode == "I" and 0 < high * 255 / white < 0.5:
        raise ValueError(f"its values end at {high:g}, black beside {white:g}; set data.transform.white")
    grey = Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))
    if (transparent := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _values(image: Image.Image) -> tuple[np.ndarray, float | None]:
    """The values of a grey image, and the largest that its file can hold; None for floats."""
    values = np.asarray(image)
    if image.mode == "F":
        return values, None
    tags = getattr(image, "tag_v2", {})  # of TIFF
    (bits, *_), (kind, *_) = tags.get(BITS, (0,)), tags.get(SAMPLE_FORMAT, (UNSIGNED,))
    if bits == 32 and kind == UNSIGNED:
        return values.view(np.uint32), 2.0**32 - 1  # Pillow has them as int32
    if bits:
        return values, 2.0 ** (bits - (kind != UNSIGNED)) - 1
    return values, 2.0**31 - 1 if image.mode == "I" and image.format not in ("PNG", "PPM") else 2.0**16 - 1
