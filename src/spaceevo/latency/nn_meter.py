"""Adapts nn-Meter 2.0: its registered kernel predictors for our blocks, and our predictors as a package for it.

nn-Meter keeps its settings below the home folder as it stands at import; ours is lent to it then, and what the user
registered with `nn-meter register` is taken over from theirs. Its packages are pickles: load only those you trust.
"""

import json
import logging
import os
import pickle
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol
from unittest.mock import patch

import numpy as np
import yaml
from numpy.typing import NDArray

from spaceevo.artifacts import read_yaml, write_bytes, write_text
from spaceevo.errors import ConfigError, MissingExtraError, TableError, choices
from spaceevo.latency.kernels import KernelCosts, kernels_of
from spaceevo.space.placement import PlacedBlock

META_FILE = "meta.yaml"
USERS_FILE = Path("~/.nn_meter/config/predictors.yaml")  # where `nn-meter register` puts what it is given
SYNONYMS = {"global-avgpool": ("gap", "global-pool"), "addrelu": ("add-relu",)}
"""Other names of kernels in packages; nn-Meter takes them for the same."""


class KernelPredictor(Protocol):
    """Stands for a kernel's predictor in nn-Meter's packages."""

    def predict(self, features: list[tuple[float, ...]], /) -> Sequence[float] | NDArray[np.float64]:
        """Predict the latency in ms of kernels with these features."""


def import_nn_meter(state: Path) -> ModuleType:
    """Import nn-Meter, keeping its settings and data in `state`; raises `MissingExtraError` where it is absent."""
    state.mkdir(parents=True, exist_ok=True)
    try:
        with patch.dict(os.environ, HOME=str(state)), warnings.catch_warnings(action="ignore"):
            import nn_meter
            from nn_meter.predictor.utils import load_config_file
            from nn_meter.utils.nn_meter_cli import registry  # it finds the folder when imported, too
    except ImportError as error:
        raise MissingExtraError("nn-meter", "nn-meter") from error
    logging.getLogger("nn-Meter").setLevel(logging.ERROR)
    load_config_file("predictors.yaml")  # writes the settings that registering needs
    take_over(USERS_FILE.expanduser(), Path(registry.__user_config_folder__) / "predictors.yaml")
    module: ModuleType = nn_meter
    return module


def take_over(users: Path, ours: Path) -> None:
    """List in our settings what the user's list of registered packages, in place of ours of the same name.

    Raises:
        ConfigError: the user's settings cannot be read.
    """
    if not users.is_file() or users.samefile(ours):
        return
    try:
        listed = yaml.safe_load(users.read_text(encoding="utf-8"))
        theirs = [{**each, "taken_from": str(users)} for each in listed or () if "download" not in each]
        names = {each["name"] for each in theirs}
    except (yaml.YAMLError, OSError, TypeError, KeyError, ValueError) as error:
        fault = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"nn-Meter's settings {users} are no list of predictors: {fault}; mend or remove it"
        ) from error
    known = yaml.safe_load(ours.read_text(encoding="utf-8"))
    kept = [each for each in known if "taken_from" not in each and each["name"] not in names]
    if kept + theirs != known:
        write_text(ours, yaml.safe_dump(kept + theirs))


def register_package(meta_file: Path, state: Path) -> str:
    """Register a predictor package with nn-Meter, in place of one of the same name; return its name."""
    if not meta_file.is_file():
        raise ConfigError(f"platform.package = {meta_file} does not exist; set it to a package's {META_FILE}")
    meta = read_yaml(meta_file)
    if not isinstance(meta, dict) or not {"name", "version", "package_location", "kernel_predictors"} <= meta.keys():
        raise ConfigError(
            f"platform.package = {meta_file} needs name, version, package_location and kernel_predictors; "
            "it is what `nn-meter register --predictor` takes"
        )
    import_nn_meter(state)
    from nn_meter.utils.nn_meter_cli import registry

    with warnings.catch_warnings(action="ignore"):
        settings = Path(registry.__user_config_folder__) / "predictors.yaml"
        known = read_yaml(settings)
        settings.write_text(yaml.safe_dump([each for each in known if each["name"] != meta["name"]]), encoding="utf-8")
        registry.register_predictor(str(meta_file))
    return str(meta["name"])


def load_predictors(name: str, state: Path) -> dict[str, KernelPredictor]:
    """Load the kernel predictors of a registered package by kernel; raises `ConfigError` where that cannot be done."""
    nn_meter = import_nn_meter(state)
    try:
        predictors: dict[str, KernelPredictor] = nn_meter.load_latency_predictor(name).kernel_predictors
    except NotImplementedError:
        known = sorted({str(each["name"]) for each in nn_meter.list_latency_predictors()})
        raise ConfigError(
            f"platform.predictor = {name} is not registered with nn-Meter; registered: {choices(known)}; "
            f"`nn-meter register --predictor <{META_FILE}>` or platform.package=<{META_FILE}> registers one"
        ) from None
    except (FileExistsError, ValueError, OSError) as error:  # the first is what nn-Meter raises for missing files
        raise ConfigError(f"platform.predictor = {name} cannot be loaded: {error}") from error
    return predictors


def blocks_ms(
    predictors: Mapping[str, KernelPredictor], blocks: Mapping[str, PlacedBlock], package: str
) -> dict[str, float]:
    """Predict the latency in ms of blocks by key, each the sum of its kernels.

    Raises:
        TableError: the package has no predictor of a kernel.
    """
    rows: dict[str, list[tuple[str, tuple[float, ...]]]] = defaultdict(list)
    for key, block in blocks.items():
        for kernel, features in kernels_of(*block):
            name = next((name for name in (kernel, *SYNONYMS.get(kernel, ())) if name in predictors), None)
            if name is None:
                raise TableError(
                    f"nn-Meter package {package} has no predictor of kernel {kernel}, which {key} needs; "
                    f"it has {choices(sorted(predictors), limit=20)}"
                )
            rows[name].append((key, features))
    found = dict.fromkeys(blocks, 0.0)
    for name, row in rows.items():
        latencies = np.asarray(predictors[name].predict([features for _, features in row]))
        for (key, _), latency in zip(row, latencies, strict=True):
            found[key] += float(latency)
    return found


def write_package(folder: Path, name: str, predictors: Mapping[str, KernelCosts]) -> Path:
    """Write kernel predictors as a package that `nn-meter register --predictor` takes; return its `meta.yaml`."""
    folder = folder.resolve()
    for kernel, predictor in predictors.items():
        write_bytes(folder / f"{kernel}.pkl", pickle.dumps(predictor))
    write_text(folder / "fusion_rules.json", json.dumps({}))
    meta = {
        "name": name,
        "version": 1.0,
        "category": "cpu",
        "package_location": str(folder),
        "kernel_predictors": sorted(predictors),
    }
    write_text(folder / META_FILE, yaml.safe_dump(meta))
    return folder / META_FILE
