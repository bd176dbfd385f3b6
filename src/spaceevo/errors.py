"""Faults a user can mend: each message is one line that names the thing, its value, what is allowed and what to do."""

import errno
import shutil
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class SpaceEvoError(Exception):
    """Base of all faults shown to a user as one line without a traceback."""

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes by what it says, whatever its constructor takes."""
        return _remade, (type(self), str(self), self.__dict__)


def _remade(cls: type[SpaceEvoError], text: str, attributes: dict[str, object]) -> SpaceEvoError:
    error = cls.__new__(cls)
    error.args = (text,)
    error.__dict__ |= attributes
    return error


class ConfigError(SpaceEvoError):
    """A setting or a superspace description is wrong."""


class EncodingError(SpaceEvoError):
    """The text of a space member, subnet or sub-stage is wrong."""


class DataError(SpaceEvoError):
    """An image folder or an image in it is missing, empty or broken."""


class TableError(SpaceEvoError):
    """A look-up table or latency table is malformed or lacks an entry."""


class ConstraintError(SpaceEvoError):
    """No subnet or space meets the asked constraint."""


class CheckpointError(SpaceEvoError):
    """A checkpoint is broken or belongs to another network."""


class ExportError(SpaceEvoError):
    """A network cannot be written as, or does not equal, a deployable file."""


class MissingArtifactError(SpaceEvoError):
    """A file that an earlier stage makes is not there."""

    def __init__(self, what: str, path: Path, command: str, other: str = "") -> None:
        fault = "is of another kind" if path.exists() else "does not exist"
        super().__init__(f"{what} is missing: {path} {fault}; {other}make it with: {command}")
        self.path = path
        self.command = command


class MissingExtraError(SpaceEvoError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"package '{package}' is not installed; install it with: pip install 'spaceevo[{extra}]'")


class LostProcessError(SpaceEvoError):
    """Another process of the same run has ended."""

    def __init__(self, rank: int, reason: str) -> None:
        told = shortened(" ".join(reason.split()), 200)
        super().__init__(f"process {rank} of this run has ended ({told}); the same command goes on")


class Stopped(BaseException):
    """A signal asks the program to end."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number
        self.kept: list[str] = []  # what the same command goes on from, in words


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "bad_alloc", "unable to mmap")
ONEDNN_OUT_OF_MEMORY = "could not create a primitive"  # whose *descriptor* it cannot create for other reasons
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)


def fault_line(error: BaseException) -> str | None:
    """Say in one line what a user can mend of a fault, of the project's own or of the machine's; None of any other."""
    text = " ".join(str(error).split())
    if isinstance(error, SpaceEvoError):
        return shortened(text)
    if isinstance(error, MemoryError) or any(word in text for word in OUT_OF_MEMORY) or text == ONEDNN_OUT_OF_MEMORY:
        told = shortened(text, 200) or "no more can be had"
        return f"memory is full ({told}); free some, or set smaller batches; the same command goes on"
    if isinstance(error, OSError):
        return shortened(_system_fault(error))
    is_known = isinstance(error, RuntimeError) and text.startswith("DataLoader worker")
    return f"{shortened(text, 300)}; set data.num_workers=0 to see why; the same command goes on" if is_known else None


def failure_line(error: BaseException) -> str:
    """Say in one line how a job ended that did not end well, whatever it was."""
    if isinstance(error, Stopped):
        return f"stopped by signal {error.signal_number}"
    return fault_line(error) or shortened(" ".join(f"{type(error).__name__}: {error}".split()))


def _system_fault(error: OSError) -> str:
    path, reason = error.filename, error.strerror or " ".join(str(error).split()) or type(error).__name__
    told = reason if path is None else f"{path}: {reason}"
    if error.errno in OUT_OF_SPACE:
        existing = next((folder for folder in Path(path or ".").absolute().parents if folder.exists()), Path.cwd())
        left = shutil.disk_usage(existing).free
        return f"{told} ({left} bytes are left in {existing}); make room; the same command goes on"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        elsewhere = "paths.root to another folder, or hydra.run.dir where it is only looked at"
        return f"{told}; change who may write there, or set {elsewhere}"
    return f"{told}; mend it; the same command goes on"


def shortened(text: str, limit: int = 480) -> str:
    """Cut the middle out of a text that is too long for a line; what is at fault and what to do stand at its ends."""
    if len(text) <= limit:
        return text
    return f"{text[: 2 * limit // 3]} … {text[-(limit // 3 - 3) :]}"


def choices(values: Iterable[object], limit: int = 12) -> str:
    """Write allowed values as a short, comma-separated list for an error message."""
    texts = [str(value) for value in values]
    shown = ", ".join(texts[:limit])
    return f"{shown}, … ({len(texts)} in all)" if len(texts) > limit else shown


def nearest(name: str, known: Iterable[str]) -> str:
    """Write the known name that is most like a wrong one, as `batch_size?`; all of them where none is."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    return f"{near[0]}?" if near else choices(names)
