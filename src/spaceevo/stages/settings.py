"""Settings that several jobs have, and their types: what is allowed is checked when the settings are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import MinLen
from pydantic import BeforeValidator

from spaceevo.artifacts import Component, Makes
from spaceevo.artifacts.values import Count as Count
from spaceevo.artifacts.values import Index as Index
from spaceevo.artifacts.values import Name
from spaceevo.artifacts.values import Positive as Positive
from spaceevo.artifacts.values import Seed as Seed
from spaceevo.errors import ConfigError, choices
from spaceevo.search.limits import DEMANDS, SETTINGS, Kind, Limit

ChainQuant = Literal["deploy", "reduced_range"]  # Schemes under which all steps of a chain work, its files included
CHAIN_SCHEMES: tuple[str, ...] = get_args(ChainQuant)
Quant = Literal["off", ChainQuant, "published"]


def _only(value: object) -> object:
    """Take a list of one text for the text, as the published commands have spaces."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


OneText = Annotated[str, BeforeValidator(_only)]
Texts = str | tuple[str, ...] | None  # One text, several, or none
Blocks = str | Annotated[tuple[str, ...], MinLen(1)]  # Names of candidate blocks: one, or several
Numbers = Index | Annotated[tuple[Index, ...], MinLen(1)] | None  # One whole number, several, or none
# Latency limits in ms, or `auto`, what the job finds by itself
Limits = Literal["auto"] | Positive | Annotated[tuple[Positive, ...], MinLen(1)]
LatencyConstraint = Limits | Annotated[Mapping[str, Limits], MinLen(1)]  # For all platforms, or for each by its name


DemandLimits = Positive | Annotated[tuple[Positive, ...], MinLen(1)] | None  # One bound, several, or none


@dataclass(frozen=True)
class LimitSettings:
    """Says what a subnet may take at most besides time; each is kept by every subnet that a search finds."""

    mmacs: DemandLimits  # multiply-accumulates of its convolutions, in millions
    mparams: DemandLimits  # parameters, in millions
    file_kb: DemandLimits  # kB (1000 bytes) of its INT8 file, the larger of ONNX and TFLite
    peak_ram_kb: DemandLimits  # kB (1000 bytes) of memory under TensorFlow Lite Micro


def joined_limits(limits_ms: Sequence[float] | None, demands: LimitSettings) -> tuple[Limit, ...]:
    """Join limits of latency and of other kinds: at most one kind has several, and each is joined by all others.

    Raises:
        ConfigError: several kinds have several.
    """
    asked: dict[Kind, tuple[float, ...]] = {} if limits_ms is None else {"ms": tuple(limits_ms)}
    for kind in DEMANDS:
        value: DemandLimits = getattr(demands, kind)
        if value is not None:
            asked[kind] = value if isinstance(value, tuple) else (value,)
    several = [SETTINGS[kind] for kind, values in asked.items() if len(values) > 1]
    if len(several) > 1:
        raise ConfigError(f"{' and '.join(several)} are lists; allowed: one list, which the other limits join")
    return tuple(Limit.of(dict(zip(asked, values, strict=True))) for values in product(*asked.values()) if asked)


def limits_for(platform: str, constraint: LatencyConstraint) -> tuple[float, ...] | None:
    """Return a platform's latency limits in ms; None for `auto`.

    Raises:
        ConfigError: the constraint maps other platforms to theirs.
    """
    if isinstance(constraint, Mapping):
        if platform not in constraint:
            raise ConfigError(f"latency_constraint has no entry for platform {platform}; it has {choices(constraint)}")
        constraint = constraint[platform]
    if isinstance(constraint, tuple):
        return constraint
    return None if constraint == "auto" else (float(constraint),)


def limits_for_any(constraint: LatencyConstraint) -> tuple[float, ...] | None:
    """Return the latency limits in ms of the platform that has most of them; None where all are `auto`."""
    each = constraint if isinstance(constraint, Mapping) else {"": constraint}
    found = [limits_for(name, each) for name in each]
    return max((limits for limits in found if limits is not None), key=len, default=None)


def one_or_all(limits_ms: Sequence[float]) -> float | str:
    """Return a limit in ms as a figure; several as a text, so that none is left out where figures are shown."""
    return limits_ms[0] if len(limits_ms) == 1 else ", ".join(f"{ms:g}" for ms in limits_ms)


@dataclass(frozen=True, kw_only=True)
class SuperspaceSettings:
    """Says which superspace a job works on."""

    superspace: Mapping[str, Any]  # its description


@dataclass(frozen=True, kw_only=True)
class SpaceSettings(SuperspaceSettings):
    """Says also which space of it."""

    space: OneText | None  # encoding of the space; None takes the best of the last space search


@dataclass(frozen=True, kw_only=True)
class SubnetSettings(SpaceSettings):
    """Says also which subnets of it."""

    subnet: Texts  # encodings, `max`, `min` or published names; what None stands for, the job says


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(SuperspaceSettings):
    """Says what networks a job works on are like, and with which images."""

    data: Annotated[Component[Any], Makes("spaceevo.lit.datamodule.ImageFolderDataModule")]  # the images
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
    model: Name | None  # name of the published supernet whose released file may be taken
