"""What one job leaves for another: where it lies, and JSON files as typed values with a schema number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from spaceevo.artifacts import values
from spaceevo.artifacts.files import Plain, file_hash, fingerprint
from spaceevo.artifacts.seals import read_sealed_json, write_sealed_json
from spaceevo.errors import CheckpointError

RESULT_FILE = "result.json"
FRONT_FILE = "front.json"
SCHEMA = 2  # Version 1 wrote the same names without some fields; later versions are refused
R = TypeVar("R")


@dataclass(frozen=True)
class Layout:
    """Names the files and folders below one checkpoint folder (published layout).

    Weights lie in `checkpoint.pth` (fp32), `lsq.pth` (INT8 under `published`, which released files are),
    `lsq_deploy.pth` and `lsq_reduced_range.pth`, so that networks of one scheme do not replace those of another.
    """

    root: Path
    quant: str = "deploy"  # scheme of the INT8 networks; `off` where a job works on fp32 ones alone

    def file(self, int8: bool) -> str:
        """Return the name of a weights file."""
        if self.quant == "published" or not int8:
            return self.released_file(int8)
        return f"lsq_{'deploy' if self.quant == 'off' else self.quant}.pth"

    @staticmethod
    def released_file(int8: bool) -> str:
        """Return the name of a weights file as it was published."""
        return "lsq.pth" if int8 else "checkpoint.pth"

    def teacher(self, name: str, int8: bool) -> Path:
        """Return the file of a teacher's weights; INT8 ones are the same for every scheme of the students."""
        return self.root / "block_kd" / "teacher_checkpoint" / name / self.released_file(int8)

    def block(self, superspace: str, stage: str, block_index: int, int8: bool) -> Path:
        """Return the file of the weights of one candidate block of one stage."""
        return self.root / "block_kd" / superspace / f"{stage}_{block_index}" / self.file(int8)

    def space_choice(self, superspace: str) -> Path:
        """Return the file of the space that the last space search chose."""
        return self.root / "block_kd" / "search" / superspace / "best.json"

    def supernet(self, member: str, int8: bool) -> Path:
        """Return the file of a supernet's weights."""
        folder = member if member.endswith("-align1") else f"{member}-align0"
        return self.root / "supernet_training" / folder / self.file(int8)

    def finetuned(self, member: str, subnet: str, data: str, images: str, int8: bool) -> Path:
        """Return the file of one subnet's weights, finetuned on other data; `images` is a hash of their content."""
        return self.root / "finetune" / data / f"{member}-{fingerprint([subnet, images])}" / self.file(int8)

    def released_supernet(self, name: str, int8: bool) -> Path:
        """Return the file of a published supernet's weights, as they were released."""
        return self.root / "supernet_training" / name / self.released_file(int8)

    def subnet_search(self, member: str) -> Path:
        """Return the folder of the last subnet search in a space, of fp32 subnets or of those of a scheme."""
        suffix = {"off": "-fp32", "deploy": ""}.get(self.quant, f"-{self.quant}")
        return self.root / "search_subnet" / f"{member}{suffix}"


def parse_record(cls: type[R], content: Plain, source: Path) -> R:
    """Check the content of a JSON file against a record's types.

    Raises:
        CheckpointError: a field is missing or of another type, or a later version wrote the file.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"{source} holds no record, but {type(content).__name__}; make it again")
    schema = content.get("schema", 1)
    if not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
        raise CheckpointError(
            f"{source} has schema {schema!r}; allowed: 1…{SCHEMA}; make it again, or upgrade spaceevo"
        )
    record: Any = cls  # dataclasses are no hashable types to mypy
    try:
        found: R = values.checks(record).validate_python(content)
        return found
    except ValidationError as error:
        first, *_ = error.errors()
        name = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{source}: {name}: {first['msg']}; make it again") from error


@dataclass(frozen=True)
class Record:
    """Stands for a JSON file as a whole."""

    def write(self, path: Path) -> None:
        """Write the record, atomically."""
        write_sealed_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path, command: str = "") -> Self:
        """Read the record; a broken file is a `CheckpointError`, which names the `command` that makes it."""
        try:
            return parse_record(cls, read_sealed_json(path), path)
        except CheckpointError as error:
            if not command:
                raise
            told = str(error).removesuffix("; make it again")
            raise CheckpointError(f"{told}; make it again with: {command}") from error


@dataclass(frozen=True)
class SpaceChoice(Record):
    """Says which space the last space search chose (`best.json`)."""

    space: str  # its encoding
    latency_constraints_ms: tuple[values.Positive, ...]  # what it was searched for, in ms
    score: float  # its Q-T score
    probability: float  # share of its subnets within the constraint
    loss: float  # mean of the smallest losses among those
    # limits of several kinds that it was searched for, each by kind; none where latency alone was limited
    limits: tuple[Mapping[str, float], ...] = ()
    schema: int = SCHEMA  # version of this record


@dataclass(frozen=True)
class FrontSubnet:
    """Describes one subnet of a front."""

    platform: str  # whose front it is on
    subnet: str  # its encoding
    asked_ms: str  # limits it is the best within, in ms or with their kind, separated by spaces
    latency_ms: values.Amount | None  # predicted; None where latency was not limited
    measured_ms: values.Amount | None  # measured, where the device was at hand
    held_out_top1: values.Percent
    top1: values.Percent  # on the test images
    mmacs: values.Amount  # multiply-accumulates in millions
    mparams: values.Amount  # parameters in millions
    file: str = ""  # number of its checkpoints
    int8_file: str | None = None  # its INT8 checkpoint
    fp32_file: str | None = None  # its fp32 checkpoint
    file_kb: values.Amount | None = None  # predicted size of its INT8 file in kB, where that was limited
    peak_ram_kb: values.Amount | None = None  # predicted memory on a microcontroller in kB, where that was limited


@dataclass(frozen=True)
class Front(Record):
    """Says what the last subnet search in a space found (`front.json`)."""

    space: str  # encoding of the space
    chosen: str  # encoding of the best subnet within the first limit
    front: tuple[FrontSubnet, ...]  # the subnets, platform by platform, the fastest first
    latency_constraints_ms: tuple[float, ...]  # limits of the first platform, in ms
    limits_ms: Mapping[str, tuple[float, ...]]  # limits of each platform, in ms
    chosen_by_limit: Mapping[str, Mapping[str, str]]  # platform → limit (in ms) as a text → the best subnet
    axis: str = "latency_ms"  # column of the subnets that the front is low in
    schema: int = SCHEMA  # version of this record


@dataclass(frozen=True)
class StageResult:
    """Says what a job made of what (`result.json`)."""

    stage: str  # the job, as `+stage=` names it
    fingerprint: str  # hash of the job and of `settings`
    seed: int | None  # seed of everything random; None where nothing is
    # what was found, the unit in each name (`latency_ms`, `int8_top1`); top-level keys of the file
    figures: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)  # every setting that decides the result, by dotted name
    # state of everything read besides settings: hashes of files, of images, of latency tables
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)  # paths of the files made, by name
    # path → hash of every file of `outputs`, in its folders too; not of those that later jobs add to
    checksums: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)  # of the packages that decide a result
    device: str = "cpu"  # where networks ran
    made: str = ""  # when, ISO 8601
    seconds: float = 0.0  # how long it took, what it took before it was interrupted included
    processor_seconds: float = 0.0  # of processors, those of its loaders included; busy neighbours do not add to them
    summary: tuple[str, ...] = ()  # figures shown at its end
    next_command: str = ""  # what the user would run next
    command: str = ""  # what makes it again
    folder: str = ""  # where it was saved last, absolute; empty in those of earlier versions
    schema: int = SCHEMA  # version of this record

    def changed_files(self, folder: Path | None = None) -> Iterator[str]:
        """Yield the files that are no longer as they were made; those that are gone are not among them.

        They are looked for as recorded, or by `place` where the result's `folder` is told.
        """
        for path, known in self.checksums.items():
            file = Path(path) if folder is None else self.place(path, folder)
            if file is not None and file.exists() and not (file.is_file() and file_hash(file) == known):
                yield str(file)

    def place(self, recorded: str, folder: Path) -> Path | None:
        """Return where something that was made lies, from the `folder` of this result; None where it is nowhere.

        It is looked for in the chain that the folder lies in, which may be a copy, or be seen from another working
        folder than that of its jobs, before it is taken as recorded.
        """
        path, chain = Path(recorded), folder.parent
        parts = path.relative_to(path.anchor).parts
        tails = [Path(*parts[start:]) for start in range(len(parts)) if ".." not in parts[start:]]
        beside = (base / tail for tail in tails for base in (chain, folder) if (base / tail).exists())
        if (found := next(beside, None)) is not None:
            return found
        if self.folder and Path(self.folder) != folder.absolute():
            return None  # what a copy lacks may still lie where it was copied from
        made_from_here = any(Path(each).resolve().is_relative_to(chain.resolve()) for each in self.outputs.values())
        return path if path.exists() and (path.is_absolute() or made_from_here) else None

    def moved_to(self, folder: Path) -> StageResult:
        """Return it with its files as they lie in the chain of `folder`, into which it was moved or copied.

        Those that are not there are named by where they might be, beside it.
        """
        if not self.folder or Path(self.folder) == folder.absolute():
            return self
        recorded = (*self.outputs.values(), *self.checksums)
        there = {path: self.place(path, folder) or folder / Path(path).name for path in recorded}
        outputs = {name: str(there[path]) for name, path in self.outputs.items()}
        checksums = {str(there[path]): known for path, known in self.checksums.items()}
        return replace(self, outputs=outputs, checksums=checksums)

    def save(self, folder: Path) -> None:
        """Write `result.json` into `folder`, figures at the top level."""
        record = asdict(replace(self, folder=str(folder.absolute())))
        figures = record.pop("figures")
        write_sealed_json(folder / RESULT_FILE, {**record, "figures": sorted(figures), **figures})

    @classmethod
    def load(cls, folder: Path) -> StageResult | None:
        """Read `result.json` of `folder`; None where there is none."""
        path = folder / RESULT_FILE
        if not path.exists():
            return None
        content = read_sealed_json(path)
        names = content.pop("figures", None) if isinstance(content, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) and name in content for name in names):
            raise CheckpointError(f"{path} does not list its figures; delete it and run its stage again")
        figures = {name: content.pop(name) for name in names}
        return parse_record(cls, {**content, "figures": figures}, path).moved_to(folder)


def checksums(paths: Iterable[Path]) -> dict[str, str]:
    """Hash files and what is in folders, hidden files and folders left out; return the hashes by path."""
    files = [file for path in paths for file in ([path] if path.is_file() else _shown(path))]
    return {str(file): file_hash(file) for file in files if file.is_file()}


def _shown(folder: Path) -> list[Path]:
    """All below a folder that is not hidden, and in no hidden folder below it."""
    found = sorted(folder.rglob("[!.]*"))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def require_undamaged(path: Path, command: str) -> None:
    """Check a file against the record of the job that made it, which lies beside it; without one it passes.

    Raises:
        CheckpointError: it is not as it was made; names the command that makes it.
    """
    made = StageResult.load(path.parent) if path.is_file() else None
    known = {Path(recorded).name: checksum for recorded, checksum in made.checksums.items()} if made is not None else {}
    if path.name in known and known[path.name] != file_hash(path):
        raise CheckpointError(f"{path} is damaged: it is not as it was made; make it again with: {command}")
