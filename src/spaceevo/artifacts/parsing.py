"""Reads YAML and JSON as plain values of bounded size and depth, every fault in one line."""

import json
import os
import stat
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from spaceevo.errors import ConfigError

MOST_BYTES = 100_000  # Of YAML: a description takes some thousands, and PyYAML reads 100 kB a second
MOST_VALUES = 100_000  # Of YAML: each is counted as often as aliases repeat it
MOST_DIGITS = 100  # Of a whole number; thousands take seconds
MOST_NESTED = 50  # Brackets within brackets


def read_yaml(path: Path) -> Any:
    """Read a YAML file; nothing is made but plain values.

    Raises:
        ConfigError: it cannot be read, is no YAML, or holds more than a description may.
    """
    try:
        if (size := require_file(path).st_size) > MOST_BYTES:
            raise ValueError(f"it has {size} bytes; allowed: {MOST_BYTES}")
        text = path.read_text(encoding="utf-8")
        if max(accumulate(("[{".count(sign) - "]}".count(sign) for sign in text), initial=0)) > MOST_NESTED:
            raise RecursionError  # sooner than PyYAML, whose time grows with the square of the depth
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if (count := _values(node, {})) > MOST_VALUES:
            raise ValueError(f"its aliases repeat each other to {count:.3g} values; allowed: {MOST_VALUES}")
        return loader.construct_document(node)
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep; allowed: {MOST_NESTED} levels; write it flatter") from None
    except Exception as error:  # whatever a broken file makes PyYAML raise
        raise ConfigError(f"{path} is not a readable YAML file ({_told(error)}); mend it") from None


def require_file(path: Path) -> os.stat_result:
    """Return a file's status; a `ValueError` where it is none, such as a pipe or a device, whose reading has no end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    return status


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values below a node, those of aliases once more each time."""
    if node.tag.endswith(":int"):
        _digits(node.value)
    if id(node) not in known:
        if isinstance(node, yaml.MappingNode):
            _require_once([key for key, _ in node.value])
        known[id(node)] = MOST_VALUES + 1  # what contains itself has no end
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]


def _require_once(keys: Sequence[yaml.Node]) -> None:
    """Raise a `ValueError` where a key is given twice; PyYAML takes the last, and OmegaConf refuses it."""
    seen: set[str] = set()
    for key in keys:
        if isinstance(key, yaml.ScalarNode) and key.value != "<<":
            if key.value in seen:
                raise ValueError(f"line {key.start_mark.line + 1}: {key.value} is given twice")
            seen.add(key.value)


def _told(error: Exception) -> str:
    """The fault and its line, without what PyYAML shows of the text."""
    mark = getattr(error, "problem_mark", None)
    place = "" if mark is None else f"line {mark.line + 1}: "
    text = getattr(error, "problem", None) or str(error) or type(error).__name__
    return place + " ".join(str(text).split())[:200]


def parse_json(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: it is none, or nested too deep, or has numbers or texts that nothing could write.
    """
    try:
        value = json.loads(text, parse_int=lambda digits: int(_digits(digits)))
        _check(value, MOST_NESTED)
    except RecursionError:
        raise ValueError(f"it is nested too deep; allowed: {MOST_NESTED} levels") from None
    return value


def _digits(text: str) -> str:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits; allowed: {MOST_DIGITS}")
    return text


def _check(value: Any, levels: int) -> None:
    """Look at the depth, and at texts that are no Unicode."""
    if isinstance(value, dict | list):
        if not levels:
            raise RecursionError
        for child in (*value, *value.values()) if isinstance(value, dict) else value:
            _check(child, levels - 1)
    elif isinstance(value, str) and not value.isascii():
        value.encode()  # raises ValueError
