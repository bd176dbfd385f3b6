"""Experiments that select a job: what they stand for, so that the commands that follow can go on from them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from spaceevo.artifacts import leaves, read_yaml

STAGE = "/stage/"


def chosen_experiment(name: str, folders: Iterable[Path]) -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """Read the experiment `name` of the first folder of Hydra configs that has it.

    Returns:
        The settings that it stands for, and the word of each experiment beside it by its job and its scheme.
    """
    for folder in (folder / "experiment" for folder in folders):
        if name and (folder / f"{name}.yaml").is_file():
            files = sorted((folder / f"{name}.yaml").parent.glob("*.yaml"))
            read = {str(file.relative_to(folder).with_suffix("")): _read(file) for file in files}
            return read[name], {(it["stage"], it.get("quant", "")): f"experiment={of}" for of, it in read.items()}
    return {"stage": ""}, {}


def _read(file: Path) -> dict[str, str]:
    """Settings of an experiment as they would be typed; its job as `stage`, or nothing."""
    content = read_yaml(file) or {}
    defaults = content.pop("defaults", [])
    found = {"stage": next((text.removeprefix(STAGE) for text in defaults if str(text).startswith(STAGE)), "")}
    for entry in defaults:
        chosen = entry if isinstance(entry, Mapping) else {}
        found |= {group.removeprefix("override /"): option for group, option in chosen.items()}
    for path, value, _ in leaves(content) if content else ():
        found[".".join(path)] = value if isinstance(value, str) else json.dumps(value)
    return found
