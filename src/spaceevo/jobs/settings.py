"""From Hydra's config to a job's typed settings: OmegaConf ends here.

Every leaf is checked against the type where it is declared, a dataclass's field or an argument of a component; all
faults are told at once, by the names that the user may set.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from pkgutil import resolve_name
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import ErrorDetails

from spaceevo.artifacts import Component, Makes, Plain, constructors, declared_types, takes_more
from spaceevo.artifacts.values import MOST, NAME, checks
from spaceevo.errors import ConfigError, choices, nearest
from spaceevo.jobs.foreign import ARGUMENTS, HYDRAS

S = TypeVar("S")
OURS = "spaceevo."
ALLOWED = "; allowed: "
MOST_CHARACTERS = 400  # of all faults together; the number of others is told
INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")
COMPONENT = "a component, that is a mapping with _target_"
ALLOWED_WORDS = {
    "greater_than_equal": "{ge:g} or more",
    "greater_than": "above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "below {lt:g}",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true, false",
    "string_type": "a text (quote one that looks like a number)",
    "string_pattern_mismatch": "a text of the form {pattern}",
    "none_required": "null",
    "dict_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "at least {min_length} of them",
    "callable_type": COMPONENT,
    "is_instance_of": COMPONENT,
    "dataclass_type": COMPONENT,
}
"""Pydantic's type of a fault → what is allowed; other faults are told in pydantic's words."""

NUMBERS = ("float_type", "finite_number", "int_type", "int_from_float")
"""Faults of what is no number of the kind, of which pydantic does not tell the range."""

Path = tuple[str, ...]
Fault = tuple[Path, str]  # Where a fault lies in the settings, and what follows its name in the message


def read_settings(cls: type[S], config: DictConfig) -> S:
    """Read the settings of a job, a dataclass, from the composed config's `stage.settings`.

    Raises:
        ConfigError: settings are missing, unknown or wrong; names them all, each with its value and what is allowed.
    """
    plain = plain_settings(config)
    faults = [*_unknown_fields(cls, plain, ()), *_component_faults(plain, (), get_type_hints(cls, include_extras=True))]
    of: Any = cls
    settings: S | None = None
    try:
        settings = checks(of).validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        faults = [*(_told(detail, plain, cls) for detail in error.errors()), *faults]
    if faults or settings is None:
        deepest = [(path, text) for path, text in faults if not any(_is_above(path, other) for other, _ in faults)]
        named = (users_name(("stage", "settings", *path), config) + text for path, text in deepest)
        raise ConfigError(_line([*_joined(named)]))
    return settings


def plain_settings(config: DictConfig) -> dict[str, Plain]:
    """Return a job's settings as plain values, their references followed."""
    try:
        plain = OmegaConf.to_container(config.stage.settings, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{str(error).splitlines()[0]} (needed by {error.full_key})") from error
    # Keys are texts from here on; numbers of so many digits are none that JSON's readers take
    checked: dict[str, Plain] = json.loads(json.dumps(plain), parse_int=lambda it: int(it) if len(it) < 99 else it)
    return checked


def _is_above(path: Path, other: Path) -> bool:
    return len(path) < len(other) and other[: len(path)] == path


def _line(faults: list[str]) -> str:
    """All faults, or the first ones and how many more there are."""
    shown = [text for n, text in enumerate(faults) if n == 0 or len(" | ".join(faults[: n + 1])) <= MOST_CHARACTERS]
    return " | ".join([*shown, *([f"and {left} more"] if (left := len(faults) - len(shown)) else [])])


def users_name(path: Path, config: DictConfig) -> str:
    """The name under which a user sets this: what interpolations on the way to it point at, and so on."""
    node: object = config
    for depth, key in enumerate(path):
        if not isinstance(node, DictConfig) or key not in list(node) or OmegaConf.is_missing(node, key):
            break
        if OmegaConf.is_interpolation(node, key):
            texts: Plain = OmegaConf.to_container(node, resolve=False)
            name = INTERPOLATION.sub(lambda inner: str(OmegaConf.select(config, inner[1])), texts[key][2:-1])
            if (target := re.fullmatch(r"(?:oc\.select:)?([\w.]+)(?:,\w+)?", name)) is None:
                break
            return users_name((*target[1].split("."), *path[depth + 1 :]), config)
        node = node[key]
    return ".".join(path).removeprefix("stage.settings.")


def _unknown_fields(cls: type, plain: Mapping[str, Plain], path: Path) -> Iterator[Fault]:
    """Keys that no field of a dataclass, or of one nested in it, has."""
    hints = get_type_hints(cls)
    known = {field.name for field in fields(cls)}
    for key, value in plain.items():
        if key not in known:
            yield (*path, key), f" is not a setting{ALLOWED}{nearest(key, known)}"
        elif is_dataclass(hints[key]) and isinstance(hints[key], type) and isinstance(value, Mapping):
            yield from _unknown_fields(hints[key], value, (*path, key))


def _joined(faults: Iterable[str]) -> Iterator[str]:
    """Each fault once: what each type of a union allows is told in one."""
    allowed: dict[str, list[str]] = {}
    for fault in faults:
        wrong, _, may_be = fault.partition(ALLOWED)
        allowed.setdefault(wrong, []).append(may_be)
    for wrong, values in allowed.items():
        yield ALLOWED.join([wrong, " or ".join(dict.fromkeys(filter(None, values)))]).removesuffix(ALLOWED)


def _told(detail: ErrorDetails, plain: Plain, cls: Any = object) -> Fault:
    if detail["type"] == "missing":
        *parents, name = detail["loc"]
        return (*_path(parents, plain), str(name)), " is missing; set it"
    value = "not set" if detail["input"] == MISSING else _shown(detail["input"])
    path = _path(detail["loc"], plain)
    if detail["type"] == "dataclass_type" and (names := _names_below(cls, path)):
        return path, f" = {value}{ALLOWED}a mapping, of {choices(names)}"
    may_be = _allowed(detail)
    if detail["type"] in NUMBERS and (ends := _ends(cls, path)):
        may_be = f"{may_be.replace('a number', 'a finite number')}{ends}"
    return path, f" = {value}{ALLOWED}{may_be}"


def _ends(hint: object, path: Path) -> str:
    """The ends of a number's range, those aside that only catch slips; nothing where several types are allowed."""
    for name in path:
        cls = next((each for each in (hint, *get_args(hint)) if is_dataclass(each)), None)
        hint = None if cls is None else get_type_hints(cls, include_extras=True).get(name)
    of = [each for each in get_args(hint) if each is not NoneType] if NoneType in get_args(hint) else [hint]
    marks = {type(mark): mark for mark in getattr(of[0], "__metadata__", ())} if len(of) == 1 else {}
    ends = f" above {marks[Gt].gt:g}" if Gt in marks else f", {marks[Ge].ge:g} or more" if Ge in marks else ""
    if Lt in marks:
        return f"{ends} and below {marks[Lt].lt:g}"
    return f"{ends} and at most {marks[Le].le:g}" if Le in marks and marks[Le].le < MOST else ends


def _names_below(cls: type, path: Path) -> list[str]:
    """The settings in a group of them; none where the path leads to no dataclass, or to a component."""
    for name in path:
        hint = get_type_hints(cls).get(name) if is_dataclass(cls) else None
        if not isinstance(hint, type) or hint is Component:
            return []
        cls = hint
    return [field.name for field in fields(cls)] if is_dataclass(cls) else []


def _path(parts: Iterable[int | str], plain: Plain) -> Path:
    """The names down to a value; between them pydantic has the types of a union that it tried."""
    names: list[str] = []
    for part in parts:
        if isinstance(part, int) if isinstance(plain, list) else isinstance(plain, Mapping) and part in plain:
            names.append(str(part))
            plain = plain[part]
    return tuple(names)


def _allowed(detail: ErrorDetails) -> str:
    """What a value should have been, in words of its own."""
    told = detail.get("ctx", {})
    if detail["type"] == "literal_error":
        expected = str(told["expected"]).replace("'", "").replace(" or ", ", ")
        return ", ".join(dict.fromkeys(expected.split(", ")))
    if told.get("pattern") == NAME:
        return "a name of letters, digits and . _ @ + -"
    if words := ALLOWED_WORDS.get(detail["type"]):
        return words.format(**told)
    return detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")


def _shown(value: Plain) -> str:
    text = "null" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text.strip('"') if len(text) <= 80 else f"{text[:77]}…"


def _component_faults(node: Mapping[str, Plain], path: Path, hints: Mapping[str, object]) -> Iterator[Fault]:
    """Faults in the arguments of components, wherever they stand; `hints` are the types of what `node` holds."""
    for key, value in node.items():
        if not isinstance(value, Mapping):
            continue
        if isinstance(value.get("_target_"), str):
            yield from _argument_faults(value, (*path, str(key)), _wanted(hints.get(key)))
        else:
            yield from _component_faults(value, (*path, str(key)), {})


def _wanted(hint: object) -> object:
    """What a component is to make, `Platform` of `Component[Platform]`."""
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, Makes):
            return resolve_name(mark.name)
    found = [_wanted(of) for of in get_args(hint)] if get_origin(hint) is not Component else [get_args(hint)[0]]
    return next((of for of in found if inspect.isclass(of) and of is not Any), None)


def _argument_faults(node: Mapping[str, Plain], path: Path, wanted: object = None) -> Iterator[Fault]:
    target = str(node["_target_"])
    try:
        made = resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        made = None
    if not callable(made):
        yield (*path, "_target_"), f" = {target}{ALLOWED}the full name of a class or function that can be imported"
        return
    if inspect.isclass(wanted) and inspect.isclass(made) and not issubclass(made, wanted):
        yield (*path, "_target_"), f" = {target}{ALLOWED}a {wanted.__name__}"
        return
    known = {name for each in constructors(made) for name in inspect.signature(each).parameters} - {"self"}
    for name in _required(made) - node.keys() if target.startswith(OURS) and not node.get("_partial_") else ():
        yield (*path, name), " is missing; set it"
    hints = {**(declared_types(made) if target.startswith(OURS) else ARGUMENTS), **HYDRAS}
    for key, value in node.items():
        if key not in known | HYDRAS.keys() and not takes_more(constructors(made)[0]):
            yield (*path, key), f" is not a setting{ALLOWED}{nearest(key, known)}"
        elif isinstance(value, Mapping) and "_target_" in value:
            yield from _argument_faults(value, (*path, key))
        elif key in hints:
            yield from _value_faults(hints[key], value, (*path, key))


def _required(made: Callable[..., object]) -> set[str]:
    """Names of arguments without which it cannot be called."""
    given = inspect.signature(made).parameters.values()
    return {it.name for it in given if it.default is it.empty and it.kind not in (it.VAR_POSITIONAL, it.VAR_KEYWORD)}


@cache
def adapter_of(hint: Any) -> TypeAdapter[Any] | None:
    """What checks values of a type; None of a class that checks its own arguments."""
    for config in (None, ConfigDict(arbitrary_types_allowed=True)):  # dataclasses take none
        with suppress(PydanticUserError, PydanticUndefinedAnnotation, TypeError):
            return TypeAdapter(hint, config=config)
    return None


def _value_faults(hint: Any, value: Plain, path: Path) -> Iterator[Fault]:
    adapter = adapter_of(hint)
    try:
        if adapter is not None:
            adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        for detail in error.errors():
            inner, text = _told(detail, value, hint)
            yield (*path, *inner), text
