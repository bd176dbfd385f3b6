"""Words of a command line: as people type them, and as Hydra needs them."""

import io
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from typing import NamedTuple

import hydra
from hydra._internal.utils import get_args
from omegaconf import DictConfig

from spaceevo.artifacts import read_yaml
from spaceevo.artifacts.shell import command_line, quoted
from spaceevo.errors import ConfigError, choices
from spaceevo.report.chain import OVERVIEWS
from spaceevo.space.description import conf_files, conf_folder
from spaceevo.stages.job import BUDGET, override_key

JOB = "stage"
"""What names a job; a group of configuration without a default."""
ENCODED = ("space", "subnet")
"""Settings of encodings, which may be typed as they are printed."""
ITEM = re.compile(r"""'[^']*'|"[^"]*"|[^\s,()\[\]]+""")
MISREAD = re.compile(r"[\d_.]+|d\d+_k.*|.*#.*")
"""Texts that Hydra stumbles over, as it does over #, or reads as numbers."""
OPEN = "recipe.lr_by_stage."
"""What is below it has the names of the superspace's stages, which Hydra's own config does not list."""
JOINED = ("experiment", "debug")
"""Groups of which several options may be chosen, each laid over those before."""
SEVERAL = re.compile(r"\[.*,.*\]")
NO_OPTION = re.compile(r"null|true|false|nan|inf|[-+\d.]+")


class Options(NamedTuple):
    """Holds what of a command line is no override, as far as the program itself looks at it."""

    overrides: list[str]
    wants_help: bool
    config_dir: str | None  # one more folder of configuration
    sweeps: bool = False  # whether words may stand for several values


SWITCHES = ("--help", "-h", "--multirun", "-m", "--run", "-r", "--resolve", "--hydra-help", "--version")
"""Options that stand alone."""


def hydras_words(words: Sequence[str]) -> list[str]:
    """Return the words as Hydra needs them.

    Raises:
        ConfigError: a group would get what is no option's name, or a word sets nothing.
    """
    if faults := [*filter(None, map(_fault, words))]:
        raise ConfigError(" | ".join(faults))
    switches = [word for word in words if word in SWITCHES]  # Hydra takes no words both before and behind one
    return [*switches, *(_hydras_word(word) for word in words if word not in SWITCHES)]


def options(words: Sequence[str]) -> Options:
    """Read Hydra's options; a `ConfigError` names one that it does not have."""
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            given = get_args([*words])
            return Options(given.overrides, given.help, given.config_dir, bool(given.multirun))
    except SystemExit:
        fault = " ".join(told.getvalue().rpartition("error: ")[2].split())
        raise ConfigError(f"{fault}; python -m spaceevo --hydra-help tells of the options") from None


def composed(words: list[str], folder: str | None) -> DictConfig:
    """Compose the configuration of words, as Hydra needs them; `folder` is one more folder of configuration."""
    search = [] if folder is None else [f"hydra.searchpath=[{quoted(f'file://{Path(folder).absolute()}')}]"]
    with hydra.initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        return hydra.compose("config", [*words, *search], return_hydra_config=True)


@cache
def groups() -> Mapping[str, str | None]:
    """Return the groups that a user chooses an option of, each with its default; of those without one, none may be."""
    defaults = read_yaml(conf_folder() / "config.yaml")["defaults"]
    chosen = {group: option for entry in defaults if isinstance(entry, dict) for group, option in entry.items()}
    return chosen | {"logger": None}


def retold(following: str, before: str, now: str) -> str:
    """Return a following command, recorded beside the command `before`, as it is beside `now`.

    What is set in another way now, such as the folder of images that have moved, it sets so too.
    """
    was, current = shlex.split(before), shlex.split(now)
    changed = {override_key(word): word for word in current if was and "=" in word and word not in was}
    gone = [word for word in was if word not in current and override_key(word) not in changed]
    words = [word for word in shlex.split(following) if word not in gone]
    told = [changed.get(override_key(word), word) if word in was else word for word in words]
    set_there = {*map(override_key, told)}
    return command_line([*told, *(word for key, word in changed.items() if key not in set_there)])


def refuse_budget(job: str, words: Sequence[str]) -> None:
    """Refuse hours for a single job, which would not be fitted into them.

    Raises:
        ConfigError: they are among the words of a command line.
    """
    for word in words if job not in OVERVIEWS else ():
        if override_key(word) == BUDGET and not word.endswith("=null"):
            hours = word.partition("=")[2]
            raise ConfigError(f"{BUDGET} = {hours}; only a pipeline has a budget, and {job} is one job; leave it out")


def option_names(group: str) -> list[str]:
    """List the options of a group, shipped ones and those of the folder in `SPACEEVO_CONF`, those of folders too."""
    folder = conf_folder() / group
    nested = {str(each.relative_to(folder).with_suffix("")) for each in folder.rglob("*.yaml")}
    return sorted({*conf_files(group), *nested})


def _fault(word: str) -> str:
    """Say what is wrong with a word that Hydra would end in a traceback over, or take null for an answer."""
    if any("\ud800" <= letter <= "\udfff" for letter in word):  # bytes of other encodings, which no record may hold
        return f"{ascii(word)} is not UTF-8; rename what it names, or give a link to it"
    typed, is_set, value = word.partition("=")
    key = typed.lstrip("+~")
    if is_set and not key:
        return f"{word} sets nothing; write key=value"
    group = key.partition("@")[0]  # an option may be put elsewhere: platform@source
    if group not in groups() and group != JOB:
        return ""
    may_be_none = key in groups() and groups()[key] is None
    if SEVERAL.fullmatch(value) and key in groups() and key not in JOINED:  # which Hydra would mix into one
        return f"{key} = {value}; allowed: one of {choices(option_names(group), limit=20)}"
    is_deleted = typed.startswith("~") and not may_be_none
    if is_deleted or (is_set and NO_OPTION.fullmatch(value) and not (may_be_none and value == "null")):
        told = f"{typed} = {value}" if is_set else typed
        return f"{told}; allowed: {choices(option_names(group), limit=20)}"
    return ""


def _hydras_word(word: str) -> str:
    """Write an override as Hydra needs it: encodings in `subnet=…` and `space=…` quoted, open settings joined."""
    typed, is_set, value = word.partition("=")
    if word == "logger=null":
        return "~logger"
    if typed == JOB and is_set:
        return f"+{word}"
    if typed.startswith(OPEN):
        return f"++{word}"
    return f"{typed}{is_set}{ITEM.sub(_quoted, value)}" if typed.lstrip("+~") in ENCODED else word


def _quoted(item: re.Match[str]) -> str:
    return f"'{item[0]}'" if MISREAD.fullmatch(item[0]) and item[0][0] not in "'\"" else item[0]
