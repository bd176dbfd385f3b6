"""Command lines to copy: words as a shell takes them, their values as Hydra does."""

import re
import shlex
from collections.abc import Iterable

PROGRAM = ("python", "-m", "spaceevo")
UNQUOTED = "_/-+.$%*@?|:"
"""What Hydra's grammar takes in a text without quotes, besides letters from a to z, digits, and blanks within."""
PLAIN = re.compile(rf"(?! )[A-Za-z0-9{re.escape(UNQUOTED)} ]*(?<! )")


def quoted(value: object) -> str:
    """Write the value of an override that is a text, or an item of its list, in quotes where Hydra needs them."""
    text = str(value)
    if PLAIN.fullmatch(text):
        return text
    quote = '"' if "'" in text and '"' not in text else "'"
    escaped = re.sub(rf"(\\*)({quote}|\Z)", lambda found: found[1] * 2 + (f"\\{quote}" if found[2] else ""), text)
    return f"{quote}{escaped}{quote}"


def command_line(words: Iterable[str]) -> str:
    """Join words so that they can be copied to a shell; those with quotes within stand in double ones, if they may."""
    return " ".join(map(_shells_word, words))


def _shells_word(word: str) -> str:
    return f'"{word}"' if "'" in word and not re.search(r'["$`\\!]', word) else shlex.quote(word)
