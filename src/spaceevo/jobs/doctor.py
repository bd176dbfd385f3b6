"""What could keep a chain from running on this machine: packages, devices, images, artefacts, room on the disk."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from spaceevo.errors import SpaceEvoError, fault_line
from spaceevo.jobs.runner import PACKAGES
from spaceevo.report.chain import read_chain
from spaceevo.runtimes.machine import adds_exactly, instruction_sets, machine_name
from spaceevo.stages.job import Job
from spaceevo.terminal import print_rows

OPENED = 1000  # images
NO_IMAGES = "no job reads any"
LEAST_FREE_GB = 1.0  # on the disk of the results
BYTE_WEIGHT = 127  # the greatest weight of 8 bits
COLUMNS = {"name": "check", "verdict": "", "told": "found"}


@dataclass(frozen=True)
class Check:
    """Says what one look at this machine found."""

    name: str
    told: str  # what was found, or what is wrong and what to do
    verdict: str = "ok"  # or `wrong`, or `unknown`


def examine(root: Path, jobs: Mapping[str, Job[Any] | None]) -> list[Check]:
    """Look at everything that the jobs of a chain in the folder `root` need, by their titles; None cannot be made."""
    checks = {
        "packages": _packages,
        "processor": _processor,
        "devices": _devices,
        "disk": lambda: _disk(root),
        "images": lambda: _images([job for job in jobs.values() if job is not None]),
        "artefacts": lambda: _artefacts(root),
    }
    found = [_check(name, look) for name, look in checks.items()]
    unmade = [title for title, job in jobs.items() if job is None]
    if not unmade:
        return found
    told = f"not looked at: {', '.join(unmade)} failed before it was known which are read"
    return [Check(one.name, told, "unknown") if one.told == NO_IMAGES else one for one in found]


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, look())
    except (SpaceEvoError, OSError, MemoryError) as error:
        return Check(name, fault_line(error) or str(error), "wrong")


def _packages() -> str:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            raise SpaceEvoError(f"package '{name}' is not installed; install it with: pip install {name}") from None
    return ", ".join(f"{name} {number}" for name, number in found.items())


def _processor() -> str:
    told = f"{machine_name()}; {', '.join(instruction_sets()) or 'instruction sets unknown'}"
    return told if adds_exactly(BYTE_WEIGHT) else f"{told}; INT8 is faster there under quant=reduced_range"


def _devices() -> str:
    import torch  # other jobs start without it

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{os.cpu_count()} processors, torch uses {torch.get_num_threads()}; {', '.join(gpus) or 'no GPU'}"


def _disk(root: Path) -> str:
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    if free_gb < LEAST_FREE_GB:
        raise SpaceEvoError(f"{free_gb:.2f} GB are free in {existing}; make room, or set paths.root to another folder")
    return f"{free_gb:.0f} GB are free in {existing}"


def _images(jobs: Sequence[Job[Any]]) -> str:
    """Open some of the images of the first job that reads any."""
    for job in jobs:
        data = getattr(job, "data", None)
        if data is not None:
            return f"{data.open_some(OPENED)} of {data.root} were opened"
    return NO_IMAGES


def _artefacts(root: Path) -> str:
    """Read all results, and hash the files that they name."""
    chain = read_chain(root)
    wrong = [
        *chain.broken,
        *(f"{path} is not as it was made" for it in chain.steps for path in it.result.changed_files(it.folder)),
    ]
    if wrong:
        raise SpaceEvoError(f"{'; '.join(wrong)}; the jobs that made them run again")
    return f"{len(chain.steps)} results and their files are as they were made"


def print_checks(checks: Sequence[Check]) -> None:
    """Print what was found."""
    print_rows([{name: getattr(check, name) for name in COLUMNS} for check in checks], COLUMNS, "this machine")
