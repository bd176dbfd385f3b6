"""Experiments that select a job: what they stand for, so that the commands that follow can go on from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from spaceevo.artifacts import Plain

KEY = "experiment"
STAGE, OVERRIDE = "/stage/", "override /"


@dataclass(frozen=True)
class Experiment:
    """Stands for a job and settings of it, under one word: `experiment=mobilew/block_kd`."""

    name: str  # its file below `experiment/`, without the ending
    job: str  # what `+stage=` would name; empty where it selects none
    words: tuple[str, ...]  # the overrides it amounts to, but for the job and its recipe

    @property
    def quant(self) -> str:
        """The scheme it selects, or nothing."""
        return next((text.partition("=")[2] for text in self.words if text.startswith("quant=")), "")


def chosen_experiment(given: Sequence[str], folders: Iterable[Path]) -> tuple[Experiment | None, list[Experiment]]:
    """Return the experiment that the overrides `given` name, where it selects a job, and those beside it.

    Of the `folders` of Hydra configs the first that has the experiment counts.
    """
    name = next((text.partition("=")[2] for text in given if text.lstrip("+").startswith(f"{KEY}=")), "")
    for folder in (folder / KEY for folder in folders):
        if name and (folder / f"{name}.yaml").is_file():
            files = sorted((folder / f"{name}.yaml").parent.glob("*.yaml"))
            read = (_read(file, str(file.relative_to(folder).with_suffix(""))) for file in files)
            found = [experiment for experiment in read if experiment.job]
            return next((experiment for experiment in found if experiment.name == name), None), found
    return None, []


def _read(file: Path, name: str) -> Experiment:
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    defaults = content.pop("defaults", [])
    job = next((text.removeprefix(STAGE) for text in defaults if isinstance(text, str) and text.startswith(STAGE)), "")
    chosen = (next(iter(entry.items())) for entry in defaults if isinstance(entry, Mapping))
    words = [f"{group.removeprefix(OVERRIDE)}={option}" for group, option in chosen]
    content.pop("recipe", None)  # of the experiment's own job
    return Experiment(name, job, (*words, *_leaf_words(content, "")))


def _leaf_words(tree: Mapping[str, Plain], prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaf_words(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}"
