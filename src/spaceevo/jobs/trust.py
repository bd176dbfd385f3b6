"""What of a configuration may make objects, and what is data: a file that is meant to be shared can run nothing.

Folders of configuration are as trusted as programs are; superspaces and models are not. `trust=true` lifts the limit on
what is made, not the rule that these two are data.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import cast

from hydra._internal.utils import get_args
from omegaconf import DictConfig, OmegaConf

from spaceevo.artifacts import Plain
from spaceevo.artifacts.parsing import read_yaml
from spaceevo.artifacts.values import NAME
from spaceevo.errors import ConfigError
from spaceevo.space.description import CONF_VARIABLE, conf_folder

TARGET = "_target_"
MAKERS = (TARGET, "()")  # Keys whose value is called; the second is the one of Python's logging
PACKAGES = (
    "spaceevo.jobs.",
    "spaceevo.lit.",
    "spaceevo.platforms.",
    "spaceevo.stages.",
    "spaceevo.teacher.",
    "hydra.core.",
    "hydra._internal.",
    "hydra.utils.",
    "hydra_plugins.",
    "lightning.",
    "pytorch_lightning.",
    "timm.",
    "torch.nn.",
    "torch.optim.",
    "torchvision.",
)
"""Where classes and functions come from that a configuration may name; `trust=true` allows all others."""
HANDLER = re.compile(r"logging\.(handlers\.)?[A-Z]\w+")  # Python's own, which log files are made by
LOOK_UPS = ("hydra.utils.get_class", "hydra.utils.get_method")
"""The only ones of `hydra.utils`: they give what `path` names, which must be allowed too."""
DATA_GROUPS = {
    "superspace": re.compile(r"override /(data|teacher|recipe|platform|quant)(@_global_\.\1)?"),
    "model": re.compile(r"override /(superspace)"),
}
"""Groups of configuration whose files are data, with the defaults that these may choose."""
MODEL_KEYS = {"model", "space", "subnet"}


def check_folders(arguments: Sequence[str]) -> None:
    """Check the folders of configuration that a command line and the environment name, before Hydra reads them.

    Raises:
        ConfigError: a superspace or a model holds more than data, or another file names what is not allowed.
    """
    given = get_args(list(arguments))
    texts = [given.config_dir, given.config_path, os.environ.get(CONF_VARIABLE)]
    texts += [found for text in given.overrides for found in re.findall(r"file://([^,\]\s]+)", text)]
    trusted = any(text.lstrip("+") == "trust=true" for text in given.overrides)
    groups = [folder.name for folder in conf_folder().iterdir() if folder.is_dir()]
    for folder in (Path(text) for text in texts if text):
        for group in (*groups, "hydra"):
            for file in sorted((folder / group).rglob("*.yaml")):
                if group in DATA_GROUPS:
                    require_data(file, group)
                elif not trusted:
                    _require_named(content := read_yaml(file), str(file))
                    if group == "hydra" or "hydra" in file.read_text(encoding="utf-8"):
                        require_own(content)  # Hydra makes its own parts before any job begins


def require_data(file: Path, group: str) -> None:
    """Check that a superspace or model is data: no objects, no references, no place in the rest of the configuration.

    Raises:
        ConfigError: it holds more; names what, and what is allowed.
    """
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise ConfigError(f"{group} {file} holds no mapping of names to values; describe a {group} in it")
    headers = re.findall(r"^\s*#\s*(@.*)", file.read_text(encoding="utf-8"), re.MULTILINE)
    faults = [f"'# {text}'" for text in headers if (group, text.strip()) != ("model", "@package _global_")]
    defaults = content.pop("defaults", [])
    for entry in defaults if isinstance(defaults, list) else [defaults]:
        names = entry.items() if isinstance(entry, dict) else [(entry, "")]
        if not all(DATA_GROUPS[group].fullmatch(str(key)) and re.fullmatch(r"[\w.@-]+", str(v)) for key, v in names):
            faults.append(f"defaults: {entry}")
    if group == "model":
        faults += [f"'{key}'" for key in content if key not in MODEL_KEYS]
    faults += _code(content)
    if faults:
        allowed = "plain values, and defaults that override data, teacher or recipe"
        raise ConfigError(f"{group} {file} holds {faults[0][:100]}; allowed: {allowed}; a {group} is data, take it out")


def _code(node: Plain) -> Iterator[str]:
    """Keys and texts that mean more than themselves to Hydra."""
    if isinstance(node, dict):
        yield from (f"'{key}'" for key in node if str(key) in MAKERS or re.fullmatch(r"_\w+_", str(key)))
    elif isinstance(node, str) and "${" in node:
        yield f"'{node}'"
    children = [*node, *node.values()] if isinstance(node, dict) else node if isinstance(node, list) else []
    for child in children:
        yield from _code(child)


def require_allowed(config: DictConfig) -> None:
    """Check by its name all that a composed configuration may make, before anything is imported, and its names.

    Raises:
        ConfigError: a name is none of `PACKAGES`, leads out of its folder, or a folder has none.
    """
    if not isinstance(config.trust, bool):
        raise ConfigError(f"trust = {config.trust}; allowed: true, false")
    if not config.trust:
        own = {**cast(dict[str, Plain], OmegaConf.to_container(config)), "hydra": None}
        _require_named(own, "")
        if (job := config.stage.get("job")) is not None and not str(job).startswith(PACKAGES):
            raise ConfigError(_refusal("stage.job", str(job)))
    _require_names(config)


def _require_named(node: Plain, where: str) -> None:
    for path, target in _targets(node, where):
        if not (target.startswith(PACKAGES) or HANDLER.fullmatch(target)):
            raise ConfigError(_refusal(path, target))


def require_own(node: Mapping[str, Plain]) -> None:
    """Check everything that a component is made of by what its names stand for, which may be defined elsewhere.

    Raises:
        ConfigError: a name stands for something that `PACKAGES` only import.
    """
    for path, target in _targets(node, ""):
        try:
            made = resolve_name(target)
        except (ImportError, AttributeError, ValueError):
            continue  # making it tells what is wrong
        home = f"{getattr(made, '__module__', '')}.{getattr(made, '__qualname__', '')}"
        if HANDLER.fullmatch(target):
            continue
        if not home.startswith(PACKAGES) or (home.startswith("hydra.") and home not in LOOK_UPS):
            raise ConfigError(_refusal(path, target))


def _refusal(path: str, target: str) -> str:
    packages = ", ".join(package.removesuffix(".") for package in PACKAGES if "_internal" not in package)
    remedy = "set trust=true if you trust whoever wrote it"
    return f"{path} = {target[:100]!r}; allowed: what is in {packages}; {remedy}"


def _targets(node: Plain, path: str) -> Iterator[tuple[str, str]]:
    """Everything below that would be called, or looked up to be called, and where it stands."""
    if isinstance(node, dict):
        looks_up = node.get(TARGET) in LOOK_UPS
        for key, value in node.items():
            below = f"{path}.{key}" if path else str(key)
            is_class = key == "class" and isinstance(value, str) and "." in value  # of a logging handler
            if key in MAKERS or is_class or (looks_up and key == "path"):
                yield below, str(value)
            else:
                yield from _targets(value, below)
    elif isinstance(node, list):
        for child in node:
            yield from _targets(child, path)


NAMES = ("superspace.name", "teacher.name", "platform.name", "data.name", "model.name", "model.supernet", "stage.name")
"""Settings that become names of files and folders."""


def _require_names(config: DictConfig) -> None:
    """Check once all that becomes a name of files and folders, and that no folder is the root of the file system.

    Raises:
        ConfigError: a name leads elsewhere, or a folder is empty.
    """
    named = {key: OmegaConf.select(config, key, throw_on_missing=False) for key in NAMES}
    for group in ("superspace.stages", "platforms"):
        node = OmegaConf.select(config, group, throw_on_missing=False)
        keys = map(str, node) if isinstance(node, DictConfig) else ()
        named |= {f"{group}.{name}": name for name in keys}
    parts = str(OmegaConf.select(config, "stage.folder") or "").split("/")
    named |= {"stage.folder": next((part for part in parts if not _is_name(part)), None)}
    for key, name in named.items():
        if name is not None and not _is_name(str(name)):
            raise ConfigError(
                f"{key} = {str(name)[:80]!r}; allowed: a name of a folder: letters, digits, _ - + @, later dots"
            )
    for key, folder in config.paths.items_ex(resolve=False):
        if not str(folder or "").strip():
            raise ConfigError(f"paths.{key} = {folder!r}; allowed: a folder; set paths.{key}, or leave it out")
        if re.search(r"[\x00-\x1f\x7f]", str(folder)):
            raise ConfigError(f"paths.{key} = {str(folder)[:80]!r}; allowed: a folder without line breaks and the like")


def _is_name(text: str) -> bool:
    return re.fullmatch(NAME, text) is not None
