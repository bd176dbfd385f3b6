"""From Hydra's config to a job's typed settings: OmegaConf ends here.

Every leaf is checked against the type where it is declared, a dataclass's field or an argument of a component; all
faults are told at once, by the names that the user may set.
"""

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pkgutil import resolve_name
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic_core import ErrorDetails

from spaceevo.artifacts import Plain, declared_types
from spaceevo.errors import ConfigError, choices

S = TypeVar("S")
OURS = "spaceevo."
ALLOWED = "; allowed: "
HYDRAS_KEYS = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")
INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")
ALLOWED_WORDS = {
    "greater_than_equal": "{ge:g} or more",
    "greater_than": "above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "below {lt:g}",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true, false",
    "string_type": "a text",
    "none_required": "null",
    "dict_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
}
"""Pydantic's type of a fault → what is allowed; other faults are told in pydantic's words."""


def read_settings(cls: type[S], config: DictConfig) -> S:
    """Read the settings of a job, a dataclass, from the composed config's `stage.settings`.

    Raises:
        ConfigError: settings are missing, unknown or wrong; names them all, each with its value and what is allowed.
    """
    node = config.stage.settings
    names = {key: _origin(text, key, config) for key, text in _plain(node, resolve=False).items()}
    plain = _plain(node, resolve=True)
    faults = list(_unknown_fields(cls, plain, ()))
    settings: S | None = None
    try:
        settings = TypeAdapter(cls).validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        faults += [_told(detail, plain) for detail in error.errors()]
    faults += list(_component_faults(plain, ()))
    if faults or settings is None:
        raise ConfigError(" | ".join(_joined((_named(path, names) + text for path, text in faults))))
    return settings


def _plain(node: DictConfig, *, resolve: bool) -> dict[str, Plain]:
    content = OmegaConf.to_container(node, resolve=resolve)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


Fault = tuple[tuple[str, ...], str]  # Where a fault lies in the settings, and what follows its name in the message


def _origin(value: Plain, key: str, config: DictConfig) -> str:
    """The name under which a user sets this: what the interpolation points at, `${recipe.teacher.${precision}}` too."""
    if not (isinstance(value, str) and value.startswith("${")):
        return key
    name = INTERPOLATION.sub(lambda inner: str(OmegaConf.select(config, inner[1])), value[2:-1])
    match = re.fullmatch(r"(?:oc\.select:)?([\w.]+)(?:,\w+)?", name)
    return match[1] if match else key


def _named(path: tuple[str, ...], names: Mapping[Any, str]) -> str:
    first, *rest = path
    return ".".join([names.get(first, first), *rest])


def _unknown_fields(cls: type, plain: Mapping[str, Plain], path: tuple[str, ...]) -> Iterator[Fault]:
    """Keys that no field of a dataclass, or of one nested in it, has."""
    hints = get_type_hints(cls)
    known = {field.name for field in fields(cls)}
    for key, value in plain.items():
        if key not in known:
            yield (*path, key), f" is not a setting{ALLOWED}{_nearest(key, known)}"
        elif is_dataclass(hints[key]) and isinstance(hints[key], type) and isinstance(value, Mapping):
            yield from _unknown_fields(hints[key], value, (*path, key))


def _nearest(key: str, known: set[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return f"{near[0]}?" if near else choices(sorted(known))


def _joined(faults: Iterable[str]) -> Iterator[str]:
    """Each fault once: what each type of a union allows is told in one."""
    allowed: dict[str, list[str]] = {}
    for fault in faults:
        wrong, _, may_be = fault.partition(ALLOWED)
        allowed.setdefault(wrong, []).append(may_be)
    for wrong, values in allowed.items():
        yield ALLOWED.join([wrong, " or ".join(dict.fromkeys(filter(None, values)))]).removesuffix(ALLOWED)


def _told(detail: ErrorDetails, plain: Plain) -> Fault:
    if detail["type"] == "missing":
        *parents, name = detail["loc"]
        return (*_path(parents, plain), str(name)), " is missing; set it"
    return _path(detail["loc"], plain), f" = {_shown(detail['input'])}{ALLOWED}{_allowed(detail)}"


def _path(parts: Iterable[int | str], plain: Plain) -> tuple[str, ...]:
    """The names down to a value; between them pydantic has the types of a union that it tried."""
    names: list[str] = []
    for part in parts:
        if isinstance(part, int) if isinstance(plain, list) else isinstance(plain, Mapping) and part in plain:
            names.append(str(part))
            plain = plain[part]
    return tuple(names)


def _allowed(detail: ErrorDetails) -> str:
    """What a value should have been, in words of its own."""
    if detail["type"] == "literal_error":
        return str(detail["ctx"]["expected"]).replace("'", "").replace(" or ", ", ")
    if words := ALLOWED_WORDS.get(detail["type"]):
        return words.format(**detail.get("ctx", {}))
    return detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")


def _shown(value: Plain) -> str:
    text = "null" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text.strip('"') if len(text) <= 80 else f"{text[:77]}…"


def _component_faults(node: Mapping[str, Plain], path: tuple[str, ...]) -> Iterator[Fault]:
    """Faults in the arguments of components, wherever they stand."""
    if isinstance(node.get("_target_"), str):
        yield from _argument_faults(node, path)
        return
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _component_faults(value, (*path, str(key)))


def _argument_faults(node: Mapping[str, Plain], path: tuple[str, ...]) -> Iterator[Fault]:
    target = str(node["_target_"])
    try:
        made = resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        yield (*path, "_target_"), f" = {target}{ALLOWED}the full name of a class or function that can be imported"
        return
    parameters = inspect.signature(made).parameters if callable(made) else {}
    takes_more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    hints = declared_types(made) if target.startswith(OURS) else {}
    for key, value in node.items():
        if key in HYDRAS_KEYS:
            continue
        if key not in parameters and not takes_more:
            yield (*path, key), f" is not a setting{ALLOWED}{_nearest(key, set(parameters))}"
        elif isinstance(value, Mapping) and "_target_" in value:
            yield from _argument_faults(value, (*path, key))
        elif key in hints:
            yield from _value_faults(hints[key], value, (*path, key))


def _value_faults(hint: Any, value: Plain, path: tuple[str, ...]) -> Iterator[Fault]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, TypeError):
        return  # the type is of a class that checks its own arguments
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        for detail in error.errors():
            if detail["type"] not in ("is_instance_of", "callable_type"):
                inner, text = _told(detail, value)
                yield (*path, *inner), text
