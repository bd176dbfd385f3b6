"""Settings that several jobs have, and their types: what is allowed is checked when the settings are read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import FiniteFloat, PlainValidator

from spaceevo.artifacts import Component, Plain
from spaceevo.errors import ConfigError, choices

Count = Annotated[int, Ge(1)]
Seed = Annotated[int, Ge(0)]
Positive = Annotated[FiniteFloat, Gt(0)]
Quant = Literal["off", "deploy", "published"]


def _texts(value: Plain) -> str | tuple[str, ...] | None:
    """Take texts as they are; YAML reads some, like 111111_000000, as numbers, whose zeros are lost."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return tuple(value)
    raise ValueError("a text, or a list of texts (quote those that look like numbers), or null")


Texts = Annotated[str | tuple[str, ...] | None, PlainValidator(_texts)]  # One text, several, or none


def _numbers(value: Plain) -> int | tuple[int, ...] | None:
    """Take whole numbers from 0."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(number) is int and number >= 0 for number in listed):
        raise ValueError("a whole number from 0, or a list of such, or null")
    return tuple(value) if isinstance(value, list) else value


Numbers = Annotated[int | tuple[int, ...] | None, PlainValidator(_numbers)]  # One whole number, several, or none

Limits = Literal["auto"] | tuple[float, ...]  # Latency limits in ms, or `auto`: what the job finds by itself


def _latency_constraint(value: Plain) -> Limits | Mapping[str, Limits]:
    """Take limits for all platforms, or for each by its name."""
    try:
        if isinstance(value, dict) and value:
            return {str(platform): _limits(limits) for platform, limits in value.items()}
        return _limits(value)
    except TypeError:
        raise ValueError(
            "auto, a positive number of ms, a list of such, or a mapping from platforms to these"
        ) from None


def _limits(value: Plain) -> Limits:
    if value == "auto":
        return "auto"
    listed = value if isinstance(value, list) else [value]
    numbers = [float(ms) for ms in listed if isinstance(ms, int | float) and not isinstance(ms, bool)]
    if not listed or len(numbers) < len(listed) or not all(0 < ms < math.inf for ms in numbers):
        raise TypeError
    return tuple(numbers)


LatencyConstraint = Annotated[Limits | Mapping[str, Limits], PlainValidator(_latency_constraint)]


def limits_for(platform: str, constraint: LatencyConstraint) -> tuple[float, ...] | None:
    """Return a platform's latency limits in ms; None for `auto`.

    Raises:
        ConfigError: the constraint maps other platforms to theirs.
    """
    if isinstance(constraint, Mapping):
        if platform not in constraint:
            raise ConfigError(f"latency_constraint has no entry for platform {platform}; it has {choices(constraint)}")
        constraint = constraint[platform]
    return None if constraint == "auto" else constraint


@dataclass(frozen=True, kw_only=True)
class SuperspaceSettings:
    """Says which superspace a job works on."""

    superspace: Mapping[str, Any]  # its description


@dataclass(frozen=True, kw_only=True)
class SpaceSettings(SuperspaceSettings):
    """Says also which space of it."""

    space: str | None  # encoding of the space; None takes the best of the last space search


@dataclass(frozen=True, kw_only=True)
class SubnetSettings(SpaceSettings):
    """Says also which subnets of it."""

    subnet: Texts  # encodings, `max`, `min` or published names; what None stands for, the job says


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(SuperspaceSettings):
    """Says what networks a job works on are like, and with which images."""

    data: Component[Any]  # the images
    quant: Quant  # scheme of INT8 networks, or `off` for fp32 ones
    seed: Seed  # seed of everything random
    threads: Count | None  # threads of torch; None leaves them to it

    @property
    def int8(self) -> bool:
        """Whether the job works on INT8 networks."""
        return self.quant != "off"


@dataclass(frozen=True, kw_only=True)
class SupernetSettings(NetworkSettings, SpaceSettings):
    """Says also whose weights a job works on."""

    # the supernet's weights, ours or released, or a subnet's own; None takes what was trained here
    checkpoint: Path | None
    weights: Literal["trained", "random"]  # `random` takes a network that was never trained
    model: str | None  # name of the published supernet whose released file may be taken
