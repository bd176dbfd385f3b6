"""What an agent on another machine answers, read as data: one that is broken, or not the user's, may send anything."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import StringConstraints, TypeAdapter, ValidationError

from spaceevo.artifacts import parse_json
from spaceevo.artifacts.values import Amount, Index, Positive
from spaceevo.errors import ConfigError, shortened

MOST_BYTES = 2**20  # Of an answer; timings of a group of models take a kilobyte
Text = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")]  # No codes of terminals


@dataclass(frozen=True)
class Lack:
    """Says what is missing there, or went wrong."""

    error: Text  # `python`, `core`, `runtime` or `model`
    found: Text


@dataclass(frozen=True)
class Described:
    """Says where the agent runs."""

    node: Text
    machine: Text
    instructions: Text
    version: Text  # of the runtime's package
    core: Index


@dataclass(frozen=True)
class Timings:
    """Holds latency in ms and dispersion of each model, and whether it was timed at a still moment."""

    timings: dict[Text, tuple[Positive, Amount, bool]]


Answer = Lack | Described | Timings


def read_answer(text: bytes, host: str) -> Answer:
    """Read a line that an agent sent.

    Raises:
        ConfigError: it is no answer.
    """
    try:
        found: Answer = TypeAdapter(Answer).validate_python(parse_json(text))
    except ValidationError as error:
        raise not_understood(host, str(error.errors()[-1]["msg"])) from None
    except ValueError as error:
        raise not_understood(host, str(error)) from None
    return found


def not_understood(host: str, reason: str) -> ConfigError:
    """Make the error of an answer that fits no question."""
    told = shortened(" ".join(reason.split()), 160)
    return ConfigError(f"platform.host = {host}: its answer is none ({told}); look at which Python runs there")
