"""What of a job's settings decides its result: everything, except what is marked neutral where it is declared."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from spaceevo.artifacts.files import Plain

T = TypeVar("T", covariant=True)
TARGET = "_target_"


@dataclass(frozen=True)
class Neutral:
    """Marks a setting that cannot change a result, where it is declared: `workers: Annotated[int, Neutral("why")]`."""

    reason: str


class Component(Generic[T]):
    """Describes an object that is made when it is needed: `_target_` names its class, the rest are its arguments.

    Args:
        node: the description, as Hydra's `instantiate` takes it.
    """

    def __init__(self, node: Mapping[str, Plain]) -> None:
        self.node = node

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Component) and self.node == other.node

    def __hash__(self) -> int:
        return hash(str(self.node))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Take any mapping that names a target."""
        return core_schema.no_info_after_validator_function(cls._of, core_schema.dict_schema())

    @classmethod
    def _of(cls, node: Mapping[str, Plain]) -> Component[T]:
        if not isinstance(node.get(TARGET), str):
            raise ValueError(f"a mapping with {TARGET}")
        return cls(node)


@dataclass(frozen=True)
class Leaf:
    """Describes one setting."""

    path: tuple[str, ...]  # names from the job's settings down to it
    value: Plain  # its plain value
    neutral: str | None  # why it cannot change a result; None where it can


def identity(settings: object) -> dict[str, Plain]:
    """Return the settings that decide a result as a plain mapping from dotted names; neutral ones are left out."""
    return {".".join(leaf.path): leaf.value for leaf in leaves(settings) if leaf.neutral is None}


def leaves(settings: object) -> Iterator[Leaf]:
    """Yield every leaf of a dataclass of settings, of its nested dataclasses, components and mappings."""
    yield from _walk((), settings, None)


def _walk(path: tuple[str, ...], value: object, reason: str | None) -> Iterator[Leaf]:
    if isinstance(value, Component):
        yield from _walk_mapping(path, value.node, reason)
    elif is_dataclass(value):
        reasons = neutral_reasons(value.__class__)
        for field in fields(value):
            yield from _walk((*path, field.name), getattr(value, field.name), reason or reasons.get(field.name))
    elif isinstance(value, Mapping):
        yield from _walk_mapping(path, value, reason)
    elif isinstance(value, list | tuple):
        yield Leaf(path, [_plain(item) for item in value], reason)
    else:
        yield Leaf(path, _plain(value), reason)


def _walk_mapping(path: tuple[str, ...], node: Mapping[str, Any], reason: str | None) -> Iterator[Leaf]:
    target = node.get(TARGET)
    reasons = neutral_reasons(resolve_name(target)) if isinstance(target, str) else {}
    if not node:
        yield Leaf(path, {}, reason)
    for name, value in node.items():
        yield from _walk((*path, str(name)), value, reason or reasons.get(name))


def _plain(value: object) -> Plain:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@cache
def neutral_reasons(target: Callable[..., object]) -> dict[str, str]:
    """Return the neutral settings of a dataclass, or the neutral arguments of a class or function, with the reasons."""
    declared = target if is_dataclass(target) or not inspect.isclass(target) else target.__init__
    try:
        hints = get_type_hints(declared, include_extras=True)
    except (TypeError, NameError):  # a builtin, or annotations of a library that only its type checker can read
        return {}
    marks = {name: _neutral_mark(hint) for name, hint in hints.items()}
    return {name: mark.reason for name, mark in marks.items() if mark is not None}


def _neutral_mark(hint: object) -> Neutral | None:
    if get_origin(hint) is not Annotated:
        return None
    return next((mark for mark in get_args(hint)[1:] if isinstance(mark, Neutral)), None)


def differences(before: Mapping[str, Plain], after: Mapping[str, Plain], limit: int = 3) -> str:
    """Say which settings or inputs differ, e.g. `max_epochs 1 → null`; a few of them, the number of the others."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    told = [f"{name} {_short(before.get(name))} → {_short(after.get(name))}" for name in names[:limit]]
    return ", ".join(told) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _short(value: Plain) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
