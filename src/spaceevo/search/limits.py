"""What a subnet may take at most: latency, computation, parameters, bytes of its file and of memory."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Self, get_args

Demand = Literal["mmacs", "mparams", "file_kb", "peak_ram_kb"]  # What is limited besides latency
DEMANDS: tuple[Demand, ...] = get_args(Demand)
Kind = Literal["ms"] | Demand
KINDS: tuple[Kind, ...] = ("ms", *DEMANDS)
UNITS: Mapping[Kind, str] = {
    "ms": "ms",
    "mmacs": "MMACs",
    "mparams": "MParams",
    "file_kb": "kB of file",
    "peak_ram_kb": "kB of RAM",
}
SETTINGS: Mapping[Kind, str] = {"ms": "latency_constraint", **{kind: f"limit.{kind}" for kind in DEMANDS}}
"""Names under which a user sets limits."""
PART = re.compile(r"(\d[\d.]*(?:e[+-]\d+)?)([a-z_]*)")
"""A bound and its kind in the key of a limit."""
ALL_SETTINGS = ("limit", *SETTINGS.values())
"""The same, and the one that holds several."""


@dataclass(frozen=True)
class Limit:
    """Bounds figures of a subnet, of one kind or several; those of all kinds must be kept."""

    most: tuple[tuple[Kind, float], ...]  # the greatest figure allowed of each limited kind, in the order of `KINDS`

    @classmethod
    def of(cls, most: Mapping[Kind, float]) -> Self:
        """Bound each of these kinds by its figure."""
        return cls(tuple((kind, float(most[kind])) for kind in KINDS if kind in most))

    @classmethod
    def of_key(cls, key: str) -> Self:
        """Read a `key`; kinds of later versions are left out."""
        most = {kind or "ms": float(bound) for bound, kind in PART.findall(key)}
        return cls.of({kind: most[kind] for kind in KINDS if kind in most})

    @property
    def by_kind(self) -> dict[Kind, float]:
        """The greatest figure of each limited kind."""
        return dict(self.most)

    @property
    def ms(self) -> float | None:
        """The latency in ms allowed; None where it is not limited."""
        return self.by_kind.get("ms")

    @property
    def demands(self) -> dict[Demand, float]:
        """The greatest figure of each limited kind but latency."""
        return {kind: most for kind, most in self.most if kind != "ms"}

    @property
    def label(self) -> str:
        """A text without spaces for names of columns and entries of files: `0.4ms`, `0.4ms+5mmacs`."""
        return "+".join(f"{most:g}{kind}" for kind, most in self.most)

    @property
    def key(self) -> str:
        """Its name in files: a latency alone is a number of ms, as it always was."""
        return f"{self.ms:g}" if not self.demands else self.label

    def __str__(self) -> str:
        """Write it for people: `0.4 ms, 5 MMACs`."""
        return ", ".join(f"{most:g} {UNITS[kind]}" for kind, most in self.most)

    def allows(self, figure: Callable[[Kind], float]) -> bool:
        """Tell whether the figures of a subnet, asked for one by one, are all within their bounds."""
        return all(figure(kind) <= most for kind, most in self.most)


def told_keys(keys: str) -> str:
    """Write the keys of limits, separated by spaces, for people: `0.4 ms, 5 MMACs; 0.5 ms`."""
    return "; ".join(str(Limit.of_key(key)) for key in keys.split())


def limits_of(records: Iterable[Mapping[str, float]]) -> tuple[Limit, ...]:
    """Read the limits of a record: figures by kind; kinds of later versions are left out."""
    return tuple(Limit.of({kind: record[kind] for kind in KINDS if kind in record}) for record in records)


def kinds_of(limits: Iterable[Limit]) -> tuple[Kind, ...]:
    """List the kinds that any of these limits, in the order of `KINDS`."""
    limited = {kind for limit in limits for kind, _ in limit.most}
    return tuple(kind for kind in KINDS if kind in limited)


def main_kind(limits: Iterable[Limit]) -> Kind:
    """Name the kind that fronts and pictures show: latency where it is limited, else the first that is."""
    return kinds_of(limits)[0]
