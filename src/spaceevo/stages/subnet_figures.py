"""What subnets of a space take, latency and all else that may be limited, and what to say where a limit is too low."""

from collections.abc import Mapping, Sequence

from spaceevo.errors import ConstraintError
from spaceevo.platforms.base import Platform
from spaceevo.search.demands import SubnetDemands
from spaceevo.search.limits import SETTINGS, UNITS, Kind
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember

NO_PLATFORM = "any"  # Stands for the platform's name where latency is not limited


def column_of(kind: Kind) -> str:
    """Name the column of tables that holds a kind's figures."""
    return "latency_ms" if kind == "ms" else kind


class SubnetFigures:
    """Tells what subnets take, of each once.

    Args:
        member: their space.
        platform: predicts latencies; None where none is asked for.
        classes: names of the classes, which files keep.
        platform_name: name of the platform.
    """

    def __init__(
        self, member: SpaceMember, platform: Platform | None, classes: Sequence[str], platform_name: str = NO_PLATFORM
    ) -> None:
        self.member = member
        self.platform = platform
        self.platform_name = platform_name
        self._demands = SubnetDemands(member, classes)
        self._latencies_ms: dict[SubnetSpec, float] = {}

    def figure(self, kind: Kind, spec: SubnetSpec) -> float:
        """Tell what a subnet takes of a kind."""
        if kind != "ms":
            return self._demands.figure(kind, spec)
        if spec not in self._latencies_ms:
            assert self.platform is not None
            self._latencies_ms[spec] = self.platform.subnet_ms(self.member, spec)
        return self._latencies_ms[spec]

    def latency_ms(self, spec: SubnetSpec) -> float | None:
        """Tell the predicted latency of a subnet in ms; None without a platform."""
        return None if self.platform is None else self.figure("ms", spec)

    def require(self, kind: Kind, bound: float) -> SubnetSpec | None:
        """Return a subnet within a bound of one kind, where one is known.

        Raises:
            ConstraintError: there is none; tells the subnet that comes nearest.
        """
        if kind == "ms":
            return self._require_ms(bound)
        if self.figure(kind, self.member.smallest) <= bound:
            return self.member.smallest
        least = self._demands.least(kind)
        figure = self.figure(kind, least)
        if figure > bound:
            raise ConstraintError(
                f"{SETTINGS[kind]} = {bound:g}: no subnet of {self.member} takes so few {UNITS[kind]}; the least is "
                f"{figure:.4g} ({least}); set it higher, or take another space"
            )
        return least

    def _require_ms(self, bound: float) -> SubnetSpec | None:
        assert self.platform is not None
        fastest = self.platform.fastest(self.member)
        if fastest is not None and self.figure("ms", fastest) > bound:
            raise ConstraintError(
                f"latency_constraint = {bound:g} ms: the fastest subnet of {self.member} takes "
                f"{self.figure('ms', fastest):.4g} ms on {self.platform_name} ({fastest}); "
                "set it higher, or take another space"
            )
        return None

    def requirement(self, bounds: Mapping[Kind, float], low_ms: float) -> str:
        """Say what subnets must keep, what the smallest and the largest take, and what to set."""
        parts, wanted = [], [SETTINGS[kind] for kind in bounds]
        for kind, bound in bounds.items():
            smallest, largest = (self.figure(kind, spec) for spec in (self.member.smallest, self.member.largest))
            if kind == "ms":
                wanted.append("recipe.subnet_search.delta_ms")
                told = f"latency in [{low_ms:g}, {bound:g}] ms on {self.platform_name}"
                told += f"; subnets of {self.member} take {smallest:.4g} ms (smallest) to {largest:.4g} ms (largest)"
            else:
                told = f"at most {bound:g} {UNITS[kind]}; of these {smallest:.4g} (smallest) to {largest:.4g} (largest)"
            parts.append(told)
        return f"{'; '.join(parts)}; set {', '.join(wanted)}"
