"""SpaceEvo: search spaces designed for INT8 inference on one target device.

Every public name is imported on first use, so that `python -m spaceevo --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spaceevo.version import VERSION

if TYPE_CHECKING:
    from spaceevo.latency.predictor import BlockLatency as BlockLatency
    from spaceevo.nn.loading import load_released as load_released
    from spaceevo.nn.models import create_model as create_model
    from spaceevo.nn.supernet import Supernet as Supernet
    from spaceevo.quant.lsq import lsq_plus_activation as lsq_plus_activation
    from spaceevo.quant.lsq import lsq_plus_weight as lsq_plus_weight
    from spaceevo.quant.prepare import set_quant as set_quant
    from spaceevo.search.quality import Quality as Quality
    from spaceevo.search.quality import QualityScorer as QualityScorer
    from spaceevo.space.cost import stage_cost as stage_cost
    from spaceevo.space.cost import subnet_cost as subnet_cost
    from spaceevo.space.description import parse_space as parse_space
    from spaceevo.space.description import superspace as superspace
    from spaceevo.space.description import superspaces as superspaces
    from spaceevo.space.encoding import SubnetSpec as SubnetSpec
    from spaceevo.space.spec import Cost as Cost
    from spaceevo.space.superspace import SpaceMember as SpaceMember
    from spaceevo.space.superspace import Superspace as Superspace

__version__ = VERSION

_HOMES = {
    "BlockLatency": "latency.predictor",
    "Cost": "space.spec",
    "Quality": "search.quality",
    "QualityScorer": "search.quality",
    "SpaceMember": "space.superspace",
    "SubnetSpec": "space.encoding",
    "Supernet": "nn.supernet",
    "Superspace": "space.superspace",
    "create_model": "nn.models",
    "load_released": "nn.loading",
    "lsq_plus_activation": "quant.lsq",
    "lsq_plus_weight": "quant.lsq",
    "parse_space": "space.description",
    "set_quant": "quant.prepare",
    "stage_cost": "space.cost",
    "subnet_cost": "space.cost",
    "superspace": "space.description",
    "superspaces": "space.description",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"spaceevo.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'spaceevo' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(_HOMES)
