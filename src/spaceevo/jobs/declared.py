"""What the declaration of a setting says of it: which values are allowed, and the comment beside it."""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic.errors import PydanticInvalidForJsonSchema

from spaceevo.artifacts.values import MOST
from spaceevo.jobs.settings import adapter_of

WORDS = {"integer": "whole", "number": "number", "boolean": "true, false", "null": "null", "string": "text"}
WORDS |= {"array": "list", "object": "mapping"}
"""JSON's types → words."""
FORMATS = {"path": "path"}
DECLARED = re.compile(r"\s*(\w+): [^#]*(?:#\s*(?P<meaning>.*))?")
COMMENT = re.compile(r"\s*# ?(.*)")


def allowed(hint: object) -> str:
    """Say in a few words which values a type allows; nothing where it is no plain value."""
    checks = adapter_of(hint)
    try:
        return "" if checks is None else _words(checks.json_schema())
    except PydanticInvalidForJsonSchema:  # of what is made by a component
        return ""


def _words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return ", ".join(dict.fromkeys(filter(None, map(_words, schema["anyOf"]))))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    kind = str(schema.get("type", ""))
    return " ".join(filter(None, [FORMATS.get(schema.get("format", ""), WORDS.get(kind, "")), _range(schema)]))


def _range(schema: Mapping[str, Any]) -> str:
    """The ends of a range of numbers, without those that only catch slips."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    start = f"≥ {low:g}" if low is not None else f"> {above:g}" if above is not None else ""
    end = f"≤ {high:g}" if high is not None and high < MOST else f"< {below:g}" if below is not None else ""
    return " and ".join(filter(None, [start, end]))


@cache
def comments(target: Callable[..., object]) -> dict[str, str]:
    """Return the comments by name: behind a declaration, or in the lines above it; those of base classes too.

    What the code calls None, a user calls null.
    """
    found: dict[str, str] = {}
    for cls in reversed(target.__mro__) if inspect.isclass(target) else [target]:
        try:
            lines = inspect.getsource(cls).splitlines()
        except (OSError, TypeError):  # a builtin, or written by a program
            continue
        above: list[str] = []
        for line in lines:
            if comment := COMMENT.fullmatch(line):
                above.append(comment[1])
                continue
            if declared := DECLARED.fullmatch(line):
                meaning = declared["meaning"] or " ".join(above)
                found[declared[1]] = re.sub(r"\bNone\b", "null", meaning)
            above = []
    return found
