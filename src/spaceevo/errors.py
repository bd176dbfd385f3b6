"""Faults a user can mend: each message is one line that names the thing, its value, what is allowed and what to do."""

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

    def __init__(self, what: str, path: Path, command: str) -> None:
        super().__init__(f"{what} is missing: {path} does not exist; make it with: {command}")
        self.path = path
        self.command = command


class MissingExtraError(SpaceEvoError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"package '{package}' is not installed; install it with: pip install 'spaceevo[{extra}]'")


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
