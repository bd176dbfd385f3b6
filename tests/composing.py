"""Composes the shipped configuration as Hydra would; what the same choices of groups make is made once."""

import os
import pickle
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from spaceevo.space.description import conf_folder

SHARED = Path(os.devnull)
"""Where the processes of one run of the tests keep what they composed, for each other too; set by `fixtures.py`."""


def composed(words: Sequence[str]) -> DictConfig:
    """Compose a config of one's own under the words of a command line; Hydra is initialised on the shipped folder.

    Only words that choose options of groups decide which files are read. They are composed once, by Hydra, and kept;
    the values of the others are then set as Hydra sets them.
    """
    parsed = OverridesParser.create().parse_overrides([*words])
    if any(override.is_sweep_override() for override in parsed):
        return hydra.compose("config", [*words], return_hydra_config=True)
    chosen, values = list[Override](), list[Override]()
    for override in parsed:
        (chosen if _decides_files(override) else values).append(override)
    if len({it.get_key_element() for it in chosen}) == len(chosen):  # else the last one of a group counts
        chosen.sort(key=lambda it: str(it.input_line))
    config: DictConfig = pickle.loads(_chosen(conf_folder().resolve(), tuple(str(it.input_line) for it in chosen)))
    config.hydra.runtime.cwd = str(Path.cwd())
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    config.hydra.overrides.task = [it.input_line for it in parsed if not it.is_hydra_override()]
    return config


@cache
def _groups() -> frozenset[str]:
    return frozenset(path.name for path in conf_folder().iterdir() if path.is_dir())


def _decides_files(override: Override) -> bool:
    return override.package is not None or override.is_hydra_override() or override.key_or_group in _groups()


@cache
def _chosen(folder: Path, words: tuple[str, ...]) -> bytes:
    kept = SHARED / sha256("\n".join(map(repr, (folder, *words))).encode()).hexdigest()
    if kept.exists():
        return kept.read_bytes()
    made = pickle.dumps(hydra.compose("config", [*words], return_hydra_config=True))
    if SHARED.is_dir():  # the site's page of bad inputs composes outside a run of the tests
        begun = kept.with_suffix(f".{os.getpid()}")
        begun.write_bytes(made)
        begun.replace(kept)
    return made
