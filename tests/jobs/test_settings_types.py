"""Every number among the settings has both ends of its range declared, and every text says which texts it may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Ge, Gt, Le, Lt
from omegaconf import OmegaConf
from pydantic import StringConstraints
from pydantic.fields import FieldInfo

from spaceevo.artifacts import Component, Plain, declared_types
from spaceevo.jobs.foreign import ARGUMENTS, HYDRAS
from spaceevo.jobs.runner import job_type
from spaceevo.space.description import conf_folder
from tests.jobs.conftest import defaults

JOBS = sorted(file.stem for file in (conf_folder() / "stage").glob("*.yaml"))
TEXTS = {
    "superspace": "a description, checked by space.description",
    "space": "an encoding, checked by space.description",
    "subnet": "an encoding, checked by space.encoding",
    "block": "names of a superspace's blocks, checked by space.selection",
    "format": "names of runtimes' formats, checked by export.gate",
    "taps": "names of a model's modules, checked by teacher",
    "platforms": "any names, shown to the user",
    "latency_constraint": "names of platforms, of which each that is used is looked for",
    "lr_by_stage": "names of stages, checked by job block_kd",
    "title": "shown to the user",
    "shows": "names of figures; those that are not there are not shown",
    "data": "an object, checked by its own arguments",
    "logger": "an object, checked by its own arguments",
    "root": "a path",
    "decoded_cache": "a path",
    "table": "a path",
    "key": "a path",
    "known_hosts": "a path",
    "python": "a path or name there; started without a shell",
    "cache": "a path",
    "save_dir": "a path",
    "name": "of a logger: any text",
    "project": "of W&B: any text",
    "group": "of W&B: any text",
    "job_type": "of W&B: any text",
    "path": "the name of a class, imported by Hydra",
    "_target_": "the name of a class, imported when settings are read",
    "_args_": "Hydra's own, which no config has",
    "transform": "a mapping or an object, checked by its own arguments",
    "prepare": "a function, checked by its own arguments",
    "model": "a function, checked by its own arguments",
    "optimizer": "a function, checked by its own arguments",
}
"""Why a setting may be any text, or any object, as far as its type says."""
Leaf = tuple[str, object, tuple[object, ...]]  # Dotted name, type and marks


def leaves(hint: Any, name: str, marks: tuple[object, ...] = ()) -> Iterator[Leaf]:
    """Yield the plain types below a type."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *more = get_args(hint)
        yield from leaves(inner, name, (*marks, *more))
    elif is_dataclass(hint):
        declared = get_type_hints(hint, include_extras=True)
        for field in fields(hint):
            yield from leaves(declared[field.name], f"{name}.{field.name}")
    elif origin in (Union, UnionType, tuple, list, Mapping):
        for each in (each for each in get_args(hint) if each is not ...):
            yield from leaves(each, name, marks)
    elif origin is not Component:
        yield name, hint, marks


def components(tree: Plain, name: str) -> Iterator[tuple[str, object]]:
    """Yield every argument of every component of a plain tree, with its declared type."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        inner = f"{name}.{key}"
        if "_target_" in tree:
            ours = str(tree["_target_"]).startswith("spaceevo.")
            hints = declared_types(resolve_name(tree["_target_"])) if ours else ARGUMENTS
            if not (isinstance(value, dict) and "_target_" in value):
                yield inner, {**hints, **HYDRAS}.get(key)
        yield from components(value, inner)


def values(tree: Plain, name: str) -> Iterator[str]:
    """Yield the dotted name of every value of a plain tree."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from values(value, f"{name}.{key}")
    elif isinstance(tree, list) and tree:
        for value in tree:
            yield from values(value, name)
    else:
        yield name


def is_bounded(marks: tuple[object, ...]) -> bool:
    flat = [inner for mark in marks for inner in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]
    return any(isinstance(m, Ge | Gt) for m in flat) and any(isinstance(m, Le | Lt) for m in flat)


def fault(leaf: Leaf) -> str:
    name, hint, marks = leaf
    reason = next((part for part in reversed(name.split(".")) if part in TEXTS), None)
    if hint in (int, float):
        return "" if is_bounded(marks) else "a number without both ends"
    if hint in (bool, NoneType, Path) or get_origin(hint) is Literal:
        return ""
    if hint is str and any(isinstance(mark, StringConstraints) and mark.pattern for mark in marks):
        return ""
    return "" if reason else f"any {hint}"


@pytest.mark.parametrize("job", JOBS)
def test_every_setting_says_what_it_may_be(job: str) -> None:
    config = defaults(job)
    cls = next(get_args(base)[0] for base in getattr(job_type(config), "__orig_bases__", ()))
    plain = OmegaConf.to_container(config.stage.settings, resolve=True)
    found = list(leaves(cls, job))
    undeclared = []
    for name, hint in components(plain, job):
        if hint is None:
            undeclared.append(name)
        found += leaves(hint, name)
    wrong = {leaf[0]: told for leaf in found if (told := fault(leaf))}
    assert wrong == {}
    assert undeclared == []
    looked_at = tuple(f"{name}." for name, *_ in found)
    assert [name for name in values(plain, job) if not f"{name}.".startswith(looked_at)] == []
