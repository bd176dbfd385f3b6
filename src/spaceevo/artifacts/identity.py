"""What of a job's settings decides its result: everything, except what is marked neutral where it is declared."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Generic, NamedTuple, TypeVar, Unpack, get_args, get_origin, get_type_hints

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from spaceevo.artifacts.files import Plain

T = TypeVar("T", covariant=True)
TARGET = "_target_"


@dataclass(frozen=True)
class Neutral:
    """Marks a setting that cannot change a result, where it is declared: `workers: Annotated[int, Neutral("why")]`."""

    reason: str


@dataclass(frozen=True)
class Makes:
    """Names the class of what a component makes, where its settings are read without importing that."""

    name: str


class Component(Generic[T]):
    """Describes an object that is made when it is needed: `_target_` names its class, the rest are its arguments."""

    def __init__(self, node: Mapping[str, Plain]) -> None:
        self.node = node  # as Hydra's `instantiate` takes it

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


class Leaf(NamedTuple):
    """Describes one setting."""

    path: tuple[str, ...]  # names from the job's settings down to it
    value: Plain  # its plain value
    neutral: str | None  # why it cannot change a result; None where it can


def identity(settings: object) -> dict[str, Plain]:
    """Return the settings that decide a result as a plain mapping from dotted names; neutral ones are left out."""
    return {".".join(leaf.path): leaf.value for leaf in leaves(settings) if leaf.neutral is None}


def leaves(settings: object, path: tuple[str, ...] = (), neutral: str | None = None) -> Iterator[Leaf]:
    """Yield every leaf of a dataclass of settings, of its nested dataclasses, components and mappings."""
    node = settings.node if isinstance(settings, Component) else settings
    reasons: Mapping[str, str] = {}
    if is_dataclass(node):
        reasons = neutral_reasons(node.__class__)
        node = {field.name: getattr(node, field.name) for field in fields(node)}
    elif isinstance(node, Mapping) and isinstance(target := node.get(TARGET), str):
        reasons = neutral_reasons(resolve_name(target))
    if not isinstance(node, Mapping) or not node:
        yield Leaf(path, _plain(node), neutral)
        return
    for name, value in node.items():
        yield from leaves(value, (*path, str(name)), neutral or reasons.get(name))


def _plain(value: object) -> Plain:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def constructors(target: Callable[..., object]) -> list[Callable[..., object]]:
    """List what takes a target's arguments: itself or, of a class, each constructor to which they are handed on."""
    if not inspect.isclass(target) or is_dataclass(target):
        return [target]
    found: list[Callable[..., object]] = []
    for cls in target.__mro__:
        if "__init__" in vars(cls):
            found.append(vars(cls)["__init__"])
            if not takes_more(found[-1]):
                break
    return found


def takes_more(function: Callable[..., object]) -> bool:
    """Tell whether a function takes arguments that it does not name."""
    return any(it.kind is it.VAR_KEYWORD for it in inspect.signature(function).parameters.values())


@cache
def declared_types(target: Callable[..., object]) -> dict[str, object]:
    """Return the types of a dataclass's fields, or of a class's or function's arguments, with their marks."""
    found: dict[str, object] = {}
    for declared in reversed(constructors(target)):
        with suppress(TypeError, NameError):  # a builtin, or annotations that only a type checker can read
            found |= get_type_hints(declared, include_extras=True)
    unpacked = [get_args(of)[0] for of in found.values() if get_origin(of) is Unpack]
    return found | {name: of for each in unpacked for name, of in get_type_hints(each, include_extras=True).items()}


@cache
def neutral_reasons(target: Callable[..., object]) -> dict[str, str]:
    """Return the neutral settings of a dataclass, or the neutral arguments of a class or function, with the reasons."""
    marks = ((name, mark) for name, of in declared_types(target).items() for mark in getattr(of, "__metadata__", ()))
    return {name: mark.reason for name, mark in marks if isinstance(mark, Neutral)}


def differences(before: Mapping[str, Plain], after: Mapping[str, Plain], limit: int = 3) -> str:
    """Say which settings or inputs differ, e.g. `max_epochs 1 → null`; a few of them, the number of the others."""
    old, new = ({name: value for name, value in of.items() if value != {}} for of in (before, after))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    told = [f"{name} {_short(old.get(name, ''))} → {_short(new.get(name, ''))}" for name in names[:limit]]
    return ", ".join(told) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _short(value: Plain) -> str:
    text = "null" if value is None else "nothing" if value == "" else str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
