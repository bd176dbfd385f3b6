"""What the program says of itself: all it can do on one screen, and the settings of one job on another."""

import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pkgutil import resolve_name
from typing import Any, NamedTuple, get_args, get_type_hints

from omegaconf import DictConfig

from spaceevo.artifacts import Plain, declared_types
from spaceevo.errors import choices
from spaceevo.jobs.declared import allowed, comments
from spaceevo.jobs.foreign import ARGUMENTS, HYDRAS
from spaceevo.jobs.runner import job_type
from spaceevo.jobs.settings import OURS, plain_settings, users_name
from spaceevo.jobs.standins import stand_ins
from spaceevo.jobs.words import JOB, groups, option_names
from spaceevo.space.description import conf_files

NAMED = {"superspace": "superspaces", "platform": "platforms", "data": "data sets", "teacher": "teachers"}
NAMED |= {"recipe": "recipes", "experiment": "experiments", "model": "models"}
"""Groups that are listed, with their headings."""
LEAST_COLUMNS, MOST_COLUMNS = 80, 120  # of a screen that is reckoned with; of what is read as a text
SETTING_COLUMNS = 44
WITH_MORE = ("data", "teacher", "platform", "trainer")
"""Groups whose every setting would be too much for the screen."""


def overview() -> str:
    """List jobs, and the options of every group that one chooses by name."""
    jobs = conf_files(JOB)
    lines = [
        "usage: spaceevo +stage=<job> [key=value …]        also: python -m spaceevo",
        "",
        *(_cut(f"  {name:{max(map(len, jobs))}}  {heading(name)}", MOST_COLUMNS) for name in jobs),
        "",
    ]
    for group, title in NAMED.items():
        lines += _folded(f"{title} ({group}=): ", ", ".join(option_names(group)))
    return "\n".join(
        [
            *lines,
            "",
            "+stage=<job> --help  settings of a job        -m <words>       all combinations of values a,b",
            "debug=fast           a run of a few batches   --cfg job        the whole configuration",
            "experiment=digits    +stage=pipeline: the whole chain in minutes, without any files of yours",
        ]
    )


def heading(job: str) -> str:
    """Say in a line what a job does, as its configuration has it."""
    return conf_files(JOB)[job].read_text(encoding="utf-8").split("\n", 2)[1].lstrip("# ")


def _columns() -> int:
    return max(shutil.get_terminal_size((100, 40)).columns, LEAST_COLUMNS)


def _folded(title: str, text: str) -> list[str]:
    return textwrap.wrap(title + text, min(_columns(), MOST_COLUMNS), subsequent_indent="  ", break_on_hyphens=False)


class Setting(NamedTuple):
    """Says of one setting what a user wants to know."""

    name: str  # as it is set
    value: Plain  # what it is now
    may_be: str  # what is allowed
    meaning: str  # where the code says it

    @property
    def shown(self) -> str:
        """The value as it is typed."""
        return self.value if isinstance(self.value, str) else json.dumps(self.value)


def job_help(config: DictConfig) -> str:
    """List the settings of the job of a composed configuration: what each is, and what is allowed."""
    name = str(config.stage.name)
    rows = job_settings(config)
    whole = [row.name for row in rows if row.name in WITH_MORE]
    more = f"; all of a group: --cfg job -p <group>, of {', '.join(whole)}" if whole else ""
    lines = _folded(f"spaceevo +stage={name} [key=value …]: ", heading(name))
    settings = [line for row in rows for line in _lines(row)]
    cut = (
        "; what ends in … stands whole on a wider screen (COLUMNS=240)"
        if any(it[-1:] == "…" for it in settings)
        else ""
    )
    told = _folded("values are as the words beside --help leave them", cut + more)
    return "\n".join([*lines, "", *settings, "", *told])


def job_settings(config: DictConfig) -> list[Setting]:
    """Return the settings of the job of a composed configuration, in the order in which they are declared."""
    with stand_ins():
        settings_type, *_ = next(get_args(base) for base in getattr(job_type(config), "__orig_bases__", ()))
        return [*_settings(settings_type, config)]


def _lines(row: Setting) -> list[str]:
    """What is allowed stands there whole; the meaning as far as the last line has room for it."""
    set_to = _cut(f"  {row.name} = {row.shown}", min(_columns() - LEAST_COLUMNS // 4, MOST_COLUMNS))
    start, indent = f"{set_to:{SETTING_COLUMNS}}  ", " " * SETTING_COLUMNS + "    "
    *lines, last = textwrap.wrap(start + row.may_be, _columns(), subsequent_indent=indent, drop_whitespace=False) or [
        ""
    ]
    return [*lines, _cut(f"{last} · {row.meaning}" if row.meaning else last, _columns())]


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else f"{text[: columns - 1]}…"


def _settings(cls: type, config: DictConfig) -> Iterator[Setting]:
    """The settings of a dataclass of them; a group of configuration is one."""
    shown: set[str] = set()
    for setting in _leaves(cls, plain_settings(config), (), config):
        group = setting.name.partition(".")[0]
        if group in groups() and group != "recipe" and setting.name in (group, f"{group}.name", "model.supernet"):
            chosen = config.hydra.runtime.choices.get(group)
            setting = Setting(group, chosen, choices(option_names(group), limit=20), setting.meaning)
        if setting.name not in shown:
            yield setting
        shown.add(setting.name)


def _leaves(cls: Any, node: Mapping[str, Plain], path: tuple[str, ...], config: DictConfig) -> Iterator[Setting]:
    """The arguments of a class or function, those of what it is made of in their place."""
    hints = get_type_hints(cls, include_extras=True) if is_dataclass(cls) else declared_types(cls)
    names = [field.name for field in fields(cls)] if is_dataclass(cls) else [*hints]
    meanings = comments(cls)
    for name in names:
        if name not in node:
            continue
        value, here = node[name], (*path, name)
        users = users_name(("stage", "settings", *here), config)
        owner = users_name(("stage", "settings", *path), config)
        if not is_dataclass(cls) and not users.startswith(f"{owner}."):
            users = f"{owner}.{name}"  # which follows another setting until it is set itself
        is_made = isinstance(value, Mapping) and "_target_" in value
        if users in groups() or not (is_made or is_dataclass(hints[name])):
            yield Setting(users, value, allowed(hints[name]), meanings.get(name, ""))
        elif is_made and not value["_target_"].startswith(OURS):
            yield from _foreign(value, here, config)
        else:
            made = resolve_name(value["_target_"]) if is_made else hints[name]
            yield from _leaves(made, value, here, config)


def _foreign(node: Mapping[str, Plain], path: tuple[str, ...], config: DictConfig) -> Iterator[Setting]:
    """The arguments given to what another package makes; that is not imported."""
    for name, value in node.items():
        if name not in HYDRAS:
            users = users_name(("stage", "settings", *path, name), config)
            yield Setting(users, value, allowed(ARGUMENTS.get(name, Any)), "")
