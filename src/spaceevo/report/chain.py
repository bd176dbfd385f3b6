"""A chain as its files tell it: the results of all jobs below one folder, and the tables that they name."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from spaceevo.artifacts import RESULT_FILE, StageResult, file_hash
from spaceevo.errors import CheckpointError

OVERVIEWS = ("pipeline", "plan", "report", "status")  # jobs that tell of others, and are no step of a chain
BY_FOLDER = ("space_search", "benchmark", "predict_latency")  # jobs whose folder alone tells their scheme
SUFFIXES = ("published", "reduced_range")  # schemes that folders are named after
Row = dict[str, str]


@dataclass(frozen=True)
class Step:
    """Holds what one job of a chain left."""

    folder: Path  # where its result lies
    result: StageResult  # what it says of itself

    @property
    def name(self) -> str:
        """The job and the precision of its networks, as its folder is named."""
        return self.folder.name

    @property
    def precision(self) -> str:
        """`fp32` or `int8`; jobs that know no scheme of quantisation count as `int8`."""
        return "fp32" if self.result.settings.get("quant") == "off" else "int8"

    @property
    def scheme(self) -> str:
        """Scheme of its networks; empty where they have none, or serve all schemes, as teachers do."""
        told, job = self.result.settings.get("quant"), self.result.stage
        if job == "teacher" or told == "off":
            return ""
        named = next((scheme for scheme in SUFFIXES if self.folder.name.endswith(f"_{scheme}")), "deploy")
        return str(told or (named if job in BY_FOLDER else ""))

    def path(self, name: str) -> Path | None:
        """Return an output's path, in this chain before where it was made."""
        recorded = self.result.outputs.get(name)
        return None if recorded is None else self.result.place(recorded, self.folder)

    def is_as_made(self, name: str, path: Path) -> bool:
        """Tell whether an output is the file that the job wrote; of one without a checksum it is not known."""
        known = self.result.checksums.get(self.result.outputs[name])
        return known is None or file_hash(path) == known

    def damaged_tables(self) -> list[Path]:
        """Return the CSV files that are not as they were made."""
        found = {name: path for name in self.result.outputs if (path := self.path(name)) and path.suffix == ".csv"}
        return [path for name, path in found.items() if path.is_file() and not self.is_as_made(name, path)]

    def table(self, name: str) -> list[Row]:
        """Read an output that is a CSV file; nothing where it is not there, or not as it was made."""
        path = self.path(name)
        if path is None or not path.is_file() or not self.is_as_made(name, path):
            return []
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            return [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(file)]


@dataclass(frozen=True)
class Chain:
    """Holds what the jobs below one folder left."""

    root: Path
    steps: tuple[Step, ...]  # in the order in which they ended
    broken: tuple[str, ...]  # results that cannot be read, a line each
    left_out: tuple[str, ...] = ()  # schemes whose results lie there too and are not among the steps

    def find(self, job: str, precision: str | None = None) -> Step | None:
        """Return what a job left last, of networks of one precision where that is asked for."""
        found = [step for step in self.steps if step.result.stage == job and precision in (None, step.precision)]
        return found[-1] if found else None

    def of_scheme(self, quant: str) -> Chain:
        """Leave out what other schemes left; a chain without anything of this scheme stays whole."""
        schemes = {step.scheme for step in self.steps} - {""}
        if quant not in schemes or len(schemes) == 1:
            return self
        kept = tuple(step for step in self.steps if step.scheme in ("", quant))
        return replace(self, steps=kept, left_out=tuple(sorted(schemes - {quant})))

    def trainings(self) -> Iterator[tuple[str, list[Row]]]:
        """Yield name and curve of everything that was trained, an epoch a row."""
        for step in self.steps:
            for name in step.result.outputs:
                if name.endswith("_curve"):
                    yield step.name, step.table(name)


def read_chain(root: Path) -> Chain:
    """Read every result that lies in a folder right below `root`."""
    steps, broken = [], []
    for file in sorted(root.glob(f"*/{RESULT_FILE}")):
        try:
            result = StageResult.load(file.parent)
        except (CheckpointError, OSError) as error:
            broken.append(str(error))
            continue
        if result is not None and result.stage not in OVERVIEWS:
            steps.append(Step(file.parent, result))
    return Chain(root, tuple(sorted(steps, key=lambda step: step.result.made)), tuple(broken))
