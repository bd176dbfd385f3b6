"""Types of settings: numbers with both ends of their range, and names; what lies outside is told where it is read."""

from functools import cache
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import FiniteFloat, StringConstraints, TypeAdapter

MOST = 10**9  # Beyond it lie slips of the keyboard, and what no memory holds
Count = Annotated[int, Ge(1), Le(MOST)]
Index = Annotated[int, Ge(0), Le(MOST)]
Pixels = Annotated[int, Ge(1), Le(2**13)]  # Height and width of an image
Seed = Annotated[int, Ge(0), Le(2**63 - 1)]  # Torch's generators take no more
Amount = Annotated[FiniteFloat, Ge(0), Le(MOST)]
Positive = Annotated[FiniteFloat, Gt(0), Le(MOST)]
Percent = Annotated[FiniteFloat, Ge(0), Le(100)]
Share = Annotated[FiniteFloat, Ge(0), Le(1)]
PositiveShare = Annotated[FiniteFloat, Gt(0), Le(1)]
ShareBelow1 = Annotated[FiniteFloat, Ge(0), Lt(1)]
InnerShare = Annotated[FiniteFloat, Gt(0), Lt(1)]
Channels = Annotated[int, Ge(1), Le(2**16)]
NAME = r"^[\w@+-][\w.@+-]{0,99}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]  # Stands in names of files


@cache
def checks(cls: Any) -> TypeAdapter[Any]:
    """Return what checks values against a type, which takes longer to make than to use."""
    return TypeAdapter(cls)
