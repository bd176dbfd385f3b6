"""Every setting of every job is in the job's fingerprint, or is marked as one that cannot change a result."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError

from spaceevo.artifacts import Plain, leaves
from spaceevo.jobs.runner import make_job
from spaceevo.space.description import conf_folder
from spaceevo.stages.job import Job
from tests.jobs.conftest import Compose

JOBS = sorted(file.stem for file in (conf_folder() / "stage").glob("*.yaml"))
LOADING = "says how images are loaded, not which"
PLACE = "says where the same arithmetic runs"
SHOWN = "says what is shown and logged"
WHERE = "latencies count by what the table says, wherever it lies"
NEUTRAL = {
    "data.cache_mib": LOADING,
    "data.decoded_cache": LOADING,
    "data.decoded_cache_gib": LOADING,
    "data.eval_batch_size": "networks in eval mode treat each image by itself",
    "data.num_workers": LOADING,
    "data.prefetch_factor": LOADING,
    "data.prepare.place": "the images count by their content, wherever they lie",
    "data.root": "the images count by their content, wherever they lie",
    "trainer.accelerator": PLACE,
    "trainer.enable_model_summary": SHOWN,
    "trainer.limit_val_batches": "nothing is validated while training",
    "trainer.log_every_n_steps": SHOWN,
    "trainer.num_sanity_val_steps": "nothing is validated while training",
    "logger": "records what happens",
    "platform.cache": WHERE,
    "platform.table": WHERE,
    "source.cache": WHERE,
    "source.table": WHERE,
    "recipe.cache_mib": "says where features lie, not which",
    "recipe.save_minutes": "says where a killed run goes on, and ends alike",
    "recipe.validate_every": "looks on, and changes nothing",
    "recipe.guard": "acts where a loss diverges; until then training is the same",
    "together": "students end as they would alone",
    "watch": "says how often to look, not at what",
    "force": "says whether to run, not what",
}
"""Settings, with all below them, that may change without making a result out of date; and why."""
Path = tuple[str | int, ...]


def walk(value: Plain, path: Path = ()) -> Iterator[tuple[Path, Plain]]:
    """Yield every leaf of a plain tree; what holds nothing is one."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(inner, (*path, key))
    else:
        yield path, value


LISTED = "listed.csv"


def needed(name: str, folder: pathlib.Path) -> list[str]:
    """Words that a job does not begin without."""
    if name != "models":
        return []
    (folder / LISTED).write_text("digits,digits-012-010,max\n", encoding="utf-8")
    return [f"models={folder / LISTED}"]


def others(value: Plain, is_target: bool) -> list[Plain]:
    """Values to try instead, the likeliest first."""
    if is_target:
        return ["builtins.dict"]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value / 2 + 0.25, value - 1]
    if isinstance(value, str) and value.endswith(LISTED):
        return [shutil.copy(value, f"{value}.other")]
    if isinstance(value, str):
        return [f"{value}x", 7]
    return ["x", 1, 0.5, True, {"x": 1}, ["x"], {"x": {"_target_": "builtins.dict"}}]


def replaced(tree: Plain, path: Path, value: Plain) -> Plain:
    """A copy of a plain tree with another value at a path."""
    copy = deepcopy(tree)
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copy


class Walked:
    """Holds a job, and what its fingerprint is under other settings."""

    def __init__(self, config: DictConfig) -> None:
        self.job: Job[Any] = make_job(config)
        self.plain: Plain = OmegaConf.to_container(config.stage.settings, resolve=True)
        self.adapter: TypeAdapter[Any] = TypeAdapter(type(self.job.settings))

    def changed_fingerprint(self, path: Path, value: Plain) -> str:
        """The fingerprint under the first other value that the settings' types allow."""
        tries = others(value, path[-1] == "_target_")
        for other in tries:
            try:
                text = json.dumps(replaced(self.plain, path, other))
                return type(self.job)(self.adapter.validate_json(text, strict=True), self.job.workspace).fingerprint
            except ValidationError as error:
                for detail in error.errors():
                    tries += [word for word in re.findall(r"'(\w+)'", detail["msg"]) if word not in (value, *tries)]
        raise AssertionError(f"no other value of {path} = {value!r} is allowed; tried {tries}")


def reason(path: Path) -> str | None:
    """Why the table has a setting as neutral."""
    names = [str(key) for key in path]
    return next((NEUTRAL[name] for n in range(len(names)) if (name := ".".join(names[: n + 1])) in NEUTRAL), None)


@pytest.mark.parametrize("superspace", ["digits", pytest.param("mobilew", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", JOBS)
def test_another_value_is_another_fingerprint(
    name: str, superspace: str, compose: Compose, record_property: Any, tmp_path: pathlib.Path
) -> None:
    walked = Walked(compose(f"+stage={name}", f"superspace={superspace}", *needed(name, tmp_path)))
    found = {path: walked.changed_fingerprint(path, value) for path, value in walk(walked.plain)}
    same = {path for path, fingerprint in found.items() if fingerprint == walked.job.fingerprint}
    expected = {path for path in found if reason(path) is not None}
    assert same - expected == set(), "are in no fingerprint"
    assert expected - same == set(), "are in the fingerprint, though the table says neutral"
    marks = {leaf.path: leaf.neutral for leaf in leaves(walked.job.settings) if leaf.neutral is not None}
    assert marks == {path: reason(path) for path in marks}
    record_property("leaves", len(found))
    record_property("neutral", len(same))
    print(f"{name} of {superspace}: {len(found)} settings, {len(same)} neutral")


@pytest.mark.slow
def test_every_entry_of_the_table_is_used(compose: Compose, tmp_path: pathlib.Path) -> None:
    jobs = [Walked(compose(f"+stage={name}", "superspace=digits", *needed(name, tmp_path))) for name in JOBS]
    texts = [".".join(map(str, path)) for walked in jobs for path, _ in walk(walked.plain)]
    unused = [name for name in NEUTRAL if not any(f"{text}.".startswith(f"{name}.") for text in texts)]
    assert unused == []
