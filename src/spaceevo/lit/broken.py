"""Images that cannot be read: all that were found are named in one line."""

import os
from collections.abc import Sequence
from contextlib import suppress

from spaceevo.artifacts import cache_folder, write_text
from spaceevo.errors import DataError

NAMED = 20  # Broken images that are looked for
LONGEST = 480  # Characters of a message
LONGEST_REASON = 160


class BrokenImageError(DataError):
    """Tells that an image cannot be read; the message stays one line when it comes out of a loader's worker process.

    A worker hands over an exception as its type and the text of its traceback, whose last line is the message.
    """

    def __init__(self, text: str, image: str = "", reason: str = "") -> None:
        super().__init__(text.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))
        self.image = image  # its name; like the next known in the process that found it
        self.reason = reason  # why it cannot be read


def shown(name: object) -> str:
    """Write a file's name in printable characters on one line, whatever it is made of."""
    return repr(str(name))[1:-1]


def cannot_be_read(names: Sequence[object], reason: str) -> BrokenImageError:
    """Make the error that names images; `reason` is why the first cannot be read.

    Names that do not fit go to a file in the cache folder, which the message names.
    """
    first, *others = (shown(name) for name in names)
    image, reason = str(names[0]), " ".join(reason.split())
    reason = reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}…"
    start = f"image {first} cannot be read ({reason})"
    more = f"{len(others)} more" if len(names) < NAMED else f"{len(others)} more at least"
    if not others:
        return BrokenImageError(f"{start}; replace or remove the file", image, reason)
    common = os.path.commonpath([first, *others])
    told = ", ".join(os.path.relpath(name, common) for name in others)
    message = f"{start}, nor can {more}: {told}; replace or remove them"
    if len(message) > LONGEST:
        path, where = cache_folder("images") / "broken.txt", ""
        with suppress(OSError):
            write_text(path, "\n".join([first, *others, ""]))
            where = f": all are listed in {path}"
        message = f"{start}, nor can {more}{where}; replace or remove them"
    return BrokenImageError(message, image, reason)
