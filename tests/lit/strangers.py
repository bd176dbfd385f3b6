"""The stranger's set: one view in every form that a file may hold it, and a folder with all that folders hold."""

from __future__ import annotations

import io
import os
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

HEIGHT, WIDTH = 20, 24
CLASSES = tuple(sorted([*"abcdefghi", "café"]))
UNDO = {  # orientation → what turns an upright picture into the one that is stored
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class Form(NamedTuple):
    """Describes a form of a picture: how it is written, and what it shows."""

    ending: str
    write: Callable[[Image.Image], bytes]  # from the upright RGB view
    grey: bool = False  # whether it shows the view's grey
    tolerance: int = 1  # grey levels


def view(number: int = 0) -> Image.Image:
    """A picture without symmetry, in few colours, whose corner is white; `number` changes its colours."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    red, green = 20 + 8 * (x // 4) * 4, 10 + 10 * (y // 4) * 3
    pixels = np.stack([red, green, (red + green) // 2 + 13 * (number % 10)], -1).clip(0, 240).astype(np.uint8)
    pixels[:8, :8] = 255
    return Image.fromarray(pixels)


def saved(image: Image.Image, kind: str, **settings: Any) -> bytes:
    """An image's file."""
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"))


def clear_corner(image: Image.Image) -> Image.Image:
    """The same over white: the corner transparent black, below it a stripe of half-transparent pixels."""
    pixels = np.asarray(image.convert("RGBA")).copy()
    pixels[:8, :8] = 0
    stripe = pixels[12:14]
    stripe[..., 3] = 250
    stripe[..., :3] = np.rint(255 - (255.0 - stripe[..., :3]) * 255 / 250).clip(0, 255)
    return Image.fromarray(pixels)


def seen(image: Image.Image, form: Form) -> np.ndarray:
    """What a form shows, `(H, W, 3)`."""
    return np.asarray(image.convert("L").convert("RGB") if form.grey else image).astype(int)


def keyed(image: Image.Image) -> tuple[Image.Image, tuple[int, int, int]]:
    """The view with a colour in the corner that is to be transparent, and that colour."""
    pixels = np.asarray(image).copy()
    pixels[:8, :8] = (1, 2, 3)
    return Image.fromarray(pixels), (1, 2, 3)


def palette(image: Image.Image) -> Image.Image:
    return image.quantize(256, dither=Image.Dither.NONE)


def transparent_palette(image: Image.Image) -> tuple[Image.Image, int]:
    """A palette image whose corner is one entry that is to be transparent, and its number."""
    few, colour = keyed(image)
    few = palette(few)
    index = int(np.asarray(few)[0, 0])
    assert few.convert("RGB").getpixel((0, 0)) == colour
    return few, index


def png16(values: np.ndarray, key: tuple[int, ...] = ()) -> bytes:
    """A PNG of 16 bits a channel, `(H, W)` or `(H, W, 3)`, whose `key` is transparent; Pillow writes none."""
    return png(np.stack([values >> 8, values & 255], -1).reshape(len(values), -1), 16, key, values.ndim == 3)


def png(content: np.ndarray, bits: int, key: tuple[int, ...] = (), colours: bool = False) -> bytes:
    """A PNG, from its rows' bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    width = content.shape[1] * 8 // bits // (3 if colours else 1)
    header = struct.pack(">IIBBBBB", width, len(content), bits, 2 if colours else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in content)
    transparent = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    parts = [chunk(b"IHDR", header), transparent, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def turned(kind: str, orientation: int, **settings: Any) -> Callable[[Image.Image], bytes]:
    """A writer of the view as a camera held another way stores it: turned, with the tag that says how."""

    def write(image: Image.Image) -> bytes:
        method = UNDO[orientation]
        stored = image if method is None else image.transpose(method)
        exif = Image.Exif()
        exif[0x0112] = orientation
        return saved(stored, kind, exif=exif.tobytes(), **settings)

    return write


def keyed_png(image: Image.Image) -> bytes:
    few, colour = keyed(image)
    return saved(few, "PNG", transparency=colour)


def keyed_png16(image: Image.Image) -> bytes:
    values = np.asarray(image).astype(int) * 257
    values[:8, :8] = (300, 301, 302)
    return png16(values, (300, 301, 302))


def keyed_grey16(image: Image.Image) -> bytes:
    values = grey(image).astype(int) * 257
    values[:8, :8] = 300
    return png16(values, (300,))


def keyed_grey(image: Image.Image) -> bytes:
    values = grey(image).copy()
    values[:8, :8] = 3
    return saved(Image.fromarray(values), "PNG", transparency=3)


def keyed_grey4(image: Image.Image) -> bytes:
    """Of 4 bits, whose 1 is transparent."""
    values = np.maximum(grey(image) // 17, 2)
    values[:8, :8] = 1
    return png(values[:, ::2] * 16 + values[:, 1::2], 4, (1,))


def unsigned_tiff(image: Image.Image) -> bytes:
    values = (grey(image).astype(np.uint32) * 16843009).view(np.int32)
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, kind, 0) for kind in (2, 1))
    content = saved(Image.fromarray(values), "TIFF")
    assert signed in content
    return content.replace(signed, unsigned)  # Pillow writes the tag itself, for signed ones only


def with_transparency(kind: str, **settings: Any) -> Callable[[Image.Image], bytes]:
    def write(image: Image.Image) -> bytes:
        few, index = transparent_palette(image)
        return saved(few, kind, transparency=index, **settings)

    return write


def animated(kind: str, **settings: Any) -> Callable[[Image.Image], bytes]:
    def write(image: Image.Image) -> bytes:
        return saved(image, kind, save_all=True, append_images=[ImageOps.invert(image)], **settings)

    return write


LOSSLESS = {"lossless": True, "exact": True}
FORMS: dict[str, Form] = {
    "PNG, 8 bits": Form(".png", lambda i: saved(i, "PNG")),
    "PNG, grey, 8 bits": Form(".png", lambda i: saved(i.convert("L"), "PNG"), grey=True),
    "PNG, grey, 16 bits": Form(".png", lambda i: png16(grey(i).astype(int) * 257), grey=True),
    "PNG, 16 bits a channel": Form(".png", lambda i: png16(np.asarray(i).astype(int) * 257)),
    "TIFF, 16 bits": Form(".tif", lambda i: saved(Image.fromarray(grey(i).astype(np.uint16) * 257), "TIFF"), grey=True),
    "TIFF, 32 bits, signed": Form(
        ".tiff", lambda i: saved(Image.fromarray(grey(i).astype(np.int32) * 8421504), "TIFF"), grey=True
    ),
    "TIFF, 32 bits, unsigned": Form(".tiff", unsigned_tiff, grey=True),
    "PGM, 16 bits": Form(".pgm", lambda i: b"P5 24 20 65535\n" + (grey(i).astype(">u2") * 257).tobytes(), grey=True),
    "PNG, palette": Form(".png", lambda i: saved(palette(i), "PNG")),
    "GIF": Form(".gif", lambda i: saved(palette(i), "GIF")),
    "GIF, animated: its first frame": Form(".gif", animated("GIF")),
    "PNG, animated: its first frame": Form(".apng", animated("PNG")),
    "WebP, animated: its first frame": Form(".webp", animated("WEBP", **LOSSLESS)),
    "PNG, alpha": Form(".png", lambda i: saved(clear_corner(i), "PNG")),
    "PNG, grey and alpha": Form(".png", lambda i: saved(clear_corner(i.convert("L")).convert("LA"), "PNG"), grey=True),
    "WebP, alpha": Form(".webp", lambda i: saved(clear_corner(i), "WEBP", **LOSSLESS)),
    "TIFF, alpha": Form(".tif", lambda i: saved(clear_corner(i), "TIFF")),
    "PNG, palette, one entry transparent": Form(".png", with_transparency("PNG")),
    "GIF, one entry transparent": Form(".gif", with_transparency("GIF")),
    "PNG, one colour transparent": Form(".png", keyed_png),
    "PNG, one colour transparent, 16 bits": Form(".png", keyed_png16),
    "PNG, one grey transparent": Form(".png", keyed_grey, grey=True),
    "PNG, one grey transparent, 4 bits": Form(".png", keyed_grey4, grey=True, tolerance=17),
    "PNG, one grey transparent, 16 bits": Form(".png", keyed_grey16, grey=True),
    "TIFF, CMYK": Form(".tif", lambda i: saved(i.convert("CMYK"), "TIFF")),
    "TIFF": Form(".TIFF", lambda i: saved(i, "TIFF")),
    "WebP": Form(".webp", lambda i: saved(i, "WEBP", **LOSSLESS)),
    "BMP": Form(".bmp", lambda i: saved(i, "BMP")),
    "JPEG 2000": Form(".jp2", lambda i: saved(i, "JPEG2000")),
    "JPEG, all its endings": Form(".jfif", lambda i: saved(i, "JPEG", quality=100, subsampling=0), tolerance=3),
    "AVIF": Form(".avif", lambda i: saved(i, "AVIF", quality=100, subsampling="4:4:4"), tolerance=3),
    **{f"PNG, EXIF orientation {n}": Form(".png", turned("PNG", n)) for n in UNDO},
    **{f"WebP, EXIF orientation {n}": Form(".webp", turned("WEBP", n, **LOSSLESS)) for n in (3, 6, 8)},
    **{f"TIFF, EXIF orientation {n}": Form(".tif", turned("TIFF", n)) for n in (3, 6, 8)},
    **{
        f"JPEG, EXIF orientation {n}": Form(".jpg", turned("JPEG", n, quality=100, subsampling=0), tolerance=3)
        for n in (3, 6, 8)
    },
}
"""Forms of a picture, by what a table calls them."""


def write_tree(root: Path) -> tuple[int, int, int]:
    """Write a folder as strangers have it; return how many images are to train on, to test on, and are passed over.

    Ten classes, which differ in colour, of all forms; and every oddity of folders.
    """
    forms = list(FORMS.values())
    for part, count in (("Training", 6), ("Validation", 2)):
        for label, name in enumerate(CLASSES):
            folder = root / part / unicodedata.normalize("NFD" if part == "Training" else "NFC", name)
            folder.mkdir(parents=True)
            for number in range(count):
                form = forms[(label * 6 + number) % len(forms)]
                (folder / f"{number}{form.ending}").write_bytes(form.write(view(label)))
    train = root / "Training"
    deep = train / "a" / "2019.png" / "May"  # folders within a class, one named like an image
    deep.mkdir(parents=True)
    picture = FORMS["PNG, 8 bits"].write(view(0))
    more = (deep / "IMG 1.PNG", train / "a" / "two\nlines.png", train / "a" / os.fsdecode(b"latin\xe9.png"))
    for path in more:
        path.write_bytes(picture)
    (train / "b" / "linked.png").symlink_to(deep / "IMG 1.PNG")
    for name in ("__MACOSX", ".ipynb_checkpoints", ".Trash-1000", "@eaDir", "$RECYCLE.BIN", "lost+found"):
        for place in (root, train, train / "c"):
            (place / name / "d").mkdir(parents=True)
            (place / name / "0.png").write_bytes(picture)
    hidden = [
        place / name for place in (train, train / "c") for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini")
    ]
    others = [root / "README.md", train / "labels.csv", train / "d" / "notes.txt", train / "d" / "film.mpg"]
    for path in (*hidden, *others):
        path.write_bytes(b"no image")
    os.mkfifo(train / "d" / "pipe.png")
    links = {train / "e" / "again": train, train / "e" / "whole": root, train / "f" / "e": train / "e"}
    links |= {train / "all": root, train / "f" / "deep" / "up": train / "f"}
    (train / "f" / "deep").mkdir()
    for link, target in links.items():
        link.symlink_to(target)
    (train / "g" / "gone.txt").symlink_to(root / "nowhere.txt")
    passed_over = 18 + len(hidden) + len(others) + 1 + len(links) + 1
    return 60 + len(more) + 1, 20, passed_over
