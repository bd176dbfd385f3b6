"""What cannot be made of a command line's words, in one line: the name, its value, what is allowed, the nearest."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from spaceevo.artifacts import Plain, read_yaml
from spaceevo.artifacts.shell import UNQUOTED
from spaceevo.errors import ConfigError, choices, shortened
from spaceevo.jobs.words import JOB, Options, composed, groups, option_names
from spaceevo.space.description import conf_files, conf_folder
from spaceevo.stages.job import PIPELINE_SCHEME
from spaceevo.stages.settings import CHAIN_SCHEMES

REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([a-z][\w.]*)")
"""What an interpolation reads: as far as the first part of its name that depends on another setting."""
OF_HYDRA = ("hydra", JOB)
MOST_SHOWN = 3
NEXT = " | "  # between what is said of two words
MOST_TOLD = 8  # wrong words
ROOM = 460  # characters for all of them
SWEEPS = re.compile(r"=.*(,|\w\()")
"""A word that may stand for several values, which is taken one by one only when the jobs of a sweep are made."""
FURTHER = re.compile(r"(Config search path|Search path|See https|To append to|full_key:).*")
"""What Hydra adds to a message beyond what is wrong."""
EXTRAS = {
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=submitit_local": "slurm",
    "hydra/launcher=submitit_slurm": "slurm",
    "hydra/sweeper=optuna": "optuna",
}
"""Options that are there where the package of an extra is installed."""
MESSAGES = {
    r"Ambiguous value for argument '(.+?)=(.*?)'": "{0} = {1}; allowed: one value; a list is {0}=[{1}]; to run each, "
    "put -m before the words",
    r"Sweep parameters '(.+?)' requires": "{0} stands for several values; to run each, put -m before the words",
    r"An item is already at '(.+?)'": "+{0}: {0} is a setting already; write {0}=… without +",
    r"Could not delete from config\. '(.+?)' does not exist": "~{0}: there is no setting {0}; leave it out",
    r"(?:Multiple values for )?(\S+@\S+?)(?:\.$|\. | appears more than once)": "{0} is chosen already; write it once, "
    "and without +",
    r"Multiple values for (\S+)\.": "{0} is chosen more than once; leave one of them",
    r"Additional config directory '(.+?)' not found": "--config-dir = {0} is no folder; set it to one that holds "
    "groups such as superspace/ and data/",
    r"Error merging override (\S+?)=(.+?) Cannot merge": "{0} = {1}; allowed: settings of that group, one by one, as "
    "{0}.<name>=value; +stage=<job> --help lists them",
    r"config group '(.+?)' does not exist": "{0} is no group of settings; write key=value",
}
"""Hydra's messages, as far as they begin alike → ours."""


def explained(error: Exception, given: Options) -> str:
    """Say in one line what Hydra refuses of a command line's words, and what it would refuse besides."""
    told, words = [_explained(error, given.overrides)], given.overrides
    while (left := [word for word in words if not any(map(_tells_of(word), told))]) != words and len(told) < MOST_TOLD:
        words = [word for word in left if not (given.sweeps and SWEEPS.search(word))]
        if not (further := _refusal(words, given.config_dir)):
            break
        told += further.split(NEXT)
    return NEXT.join(told if len(told) == 1 else (shortened(_brief(line), ROOM // len(told)) for line in told))


def _tells_of(word: str) -> Callable[[str], bool]:
    """Make what tells whether a line, which begins with a name, is about this word."""
    key = word.partition("=")[0].lstrip("+~")
    return lambda line: f"{key}.".startswith(f"{line.split()[0].lstrip('+~').rstrip(':')}.")


def _refusal(words: list[str], folder: str | None) -> str:
    """Say what is refused of these words; nothing where they are understood."""
    try:
        config = composed(words, folder)
        check_added(config, words, config.hydra.runtime.choices)
    except (HydraException, OmegaConfBaseException) as error:
        return _explained(error, words)
    except ConfigError as error:
        return str(error)
    return ""


def _brief(line: str) -> str:
    """Leave out what else is allowed, beside the nearest."""
    meant, _, _ = line.partition(" allowed: ")
    return meant if "did you mean" in meant else line


def _explained(error: Exception, words: Sequence[str]) -> str:
    """Say in one line what Hydra refuses first; the line begins with the name that is at fault."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        return _no_option(error.missing_cfg_file, error.options, words)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if str(error).startswith("Could not override"):
        for cause in causes:
            if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
                return _unknown(str(cause.full_key), cause.parent_node)
    text = " ".join(" ".join(map(str, causes)).split())
    for pattern, ours in MESSAGES.items():
        if match := re.search(pattern, text):
            return ours.format(*match.groups())
    return FURTHER.sub("", text).strip()


def _no_option(file: str, options: Iterable[str], words: Sequence[str]) -> str:
    """Name the group as it was typed; `file` is what Hydra looked for, e.g. `quant/deplo`."""
    typed = [word.lstrip("+").partition("=") for word in words if "=" in word]
    likely = [key for key, _, value in typed if file == f"{key.partition('@')[0]}/{value}"]
    found = likely or [key for key, _, _ in typed if file.startswith(f"{key.partition('@')[0]}/")]
    group = found[0].partition("@")[0] if found else file.rpartition("/")[0]
    value = file.removeprefix(f"{group}/")
    if extra := EXTRAS.get(f"{group}={value}"):
        return f"{group} = {value} comes with a package; install it with: pip install 'spaceevo[{extra}]'"
    names = sorted({*options, *option_names(group)})
    if group == JOB and f"{JOB}={value}" not in (word.lstrip("+") for word in words):
        found = ["of"]  # of a plan, which composes it
    return f"{found[0] if found else group} = {value}; {_meant(_near(value, names))}allowed: {choices(names, limit=20)}"


def _unreadable(word: str) -> str:
    """Say what is wrong with the form of a word."""
    key, is_set, value = word.partition("=")
    if is_set:
        quoted = f"a text with more than a-z, 0-9, blanks and {UNQUOTED} in it stands in quotes within the shell's"
        return f"{key} = {value} cannot be read; lists are [a,b], mappings {{a: b}}; {quoted}, as in '{key}=\"…\"'"
    if word in conf_files(JOB):
        return f"{word} is no setting; did you mean +stage={word}?"
    return f"{word} has no value; write {word}=value"


def _unknown(name: str, parent: DictConfig) -> str:
    """Say that a setting does not exist; `parent` is the deepest part of the configuration on the way to it."""
    above, _, last = name.rpartition(".")
    names = [*map(str, parent), *([] if above else [*groups(), f"+{JOB}"])]
    beside = [f"{above}.{near}" if above else near for near in _near(last, names)]
    meant = dict.fromkeys([*beside, *_elsewhere(last, parent)])
    if meant:
        return f"{name} is not a setting; {_meant([*meant][:MOST_SHOWN])}".rstrip()
    return f"{name} is not a setting; allowed: {choices(names, limit=30) or 'none here'}"


def _elsewhere(last: str, parent: DictConfig) -> list[str]:
    """Settings of the same last name, those of the job's own recipe where it has one."""
    root = parent._get_root()
    if not isinstance(root, DictConfig):
        return []
    job = str(OmegaConf.select(root, "stage.name"))
    found = [name for name in _names(root) if name.endswith(f".{last}") and not name.startswith(OF_HYDRA)]
    return [name for name in found if name.startswith(f"recipe.{job}.")] or found


def _names(config: DictConfig) -> Iterator[str]:
    """Dotted names of everything in a configuration."""

    def below(node: Plain, path: str) -> Iterator[str]:
        for key, value in node.items() if isinstance(node, Mapping) else ():
            name = f"{path}.{key}" if path else str(key)
            yield name
            yield from below(value, name)

    return below(OmegaConf.to_container(config, resolve=False), "")


def _near(name: str, names: Iterable[str]) -> list[str]:
    return get_close_matches(name, [*names], n=1)


def _meant(names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(names)}? " if names else ""


def check_added(config: DictConfig, words: Iterable[str], choices_made: Mapping[str, object]) -> None:
    """Check that something reads every setting that the words add to the configuration.

    Hydra adds whatever a `+` stands before; `choices_made` are the groups of which an option was chosen.

    Raises:
        ConfigError: nothing reads it, or could by any job.
    """
    keys = [word.partition("=")[0].lstrip("+") for word in words if word.startswith("+")]
    added = [key for key in keys if key not in choices_made and "@" not in key and not key.startswith(OF_HYDRA)]
    if not added:
        return
    texts = [file.read_text(encoding="utf-8") for file in conf_files(JOB).values()]
    texts.append(OmegaConf.to_yaml(config, resolve=False))
    read = {found.rstrip(".") for text in texts for found in REFERENCE.findall(text)}
    read |= read_yaml(conf_folder() / "config.yaml").keys()
    unread = [
        key for key in added if not any(f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.") for name in read)
    ]
    remedies = (_meant(_near(key, read)) or "nothing would read it; leave it out" for key in unread)
    if unread:
        told = (f"{key} is not a setting; {remedy}".rstrip() for key, remedy in zip(unread, remedies, strict=True))
        raise ConfigError(NEXT.join(told))


def check_scheme(config: DictConfig) -> None:
    """Check the scheme of a pipeline's steps in INT8, which following commands of single jobs take over as well.

    Raises:
        ConfigError: it is none that a whole chain can have.
    """
    scheme = OmegaConf.select(config, PIPELINE_SCHEME, default=CHAIN_SCHEMES[0])
    if scheme not in CHAIN_SCHEMES:
        allowed = f"{_meant(_near(str(scheme), CHAIN_SCHEMES))}allowed: {choices(CHAIN_SCHEMES)}"
        raise ConfigError(f"{PIPELINE_SCHEME} = {'null' if scheme is None else scheme}; {allowed}")


def check_seed(config: DictConfig) -> None:
    """Check the seed, of jobs without anything random too.

    Raises:
        ConfigError: it is no whole number, or below 0, or of more than 63 bits.
    """
    if not (type(config.seed) is int and 0 <= config.seed < 2**63):
        raise ConfigError(f"seed = {config.seed}; allowed: a whole number, 0 or more")
