"""Types of arguments of other packages' classes, which look at them late or not at all, and of Hydra's own keys."""

from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Ge, Le

from spaceevo.artifacts.values import Channels, Count, Name, Positive, Share, ShareBelow1

Few = Annotated[int, Ge(1), Le(1000)]
Betas = tuple[ShareBelow1, ShareBelow1]

ARGUMENTS: Mapping[str, object] = {
    # of optimisers
    "lr": Annotated[Positive, Le(100)],
    "momentum": ShareBelow1,
    "dampening": Share,
    "weight_decay": Share,
    "nesterov": bool,
    "amsgrad": bool,
    "maximize": bool,
    "foreach": bool | None,
    "fused": bool | None,
    "betas": Betas,
    "alpha": ShareBelow1,
    "eps": Positive,
    # of loggers
    "save_dir": str,
    "name": str | None,
    "flush_logs_every_n_steps": Count,
    "project": str | None,
    "group": str | None,
    "job_type": str | None,
    "mode": Literal["online", "offline", "disabled"],
    # of classifiers
    "model_name": Name,
    "layers": tuple[Few, ...],
    "channels": tuple[Channels, ...],
    "path": str,
}
"""By the argument's name, of whatever class."""

HYDRAS: Mapping[str, object] = {
    "_target_": str,
    "_partial_": bool,
    "_recursive_": bool,
    "_convert_": Literal["none", "partial", "object", "all"],
    "_args_": list[object],
}
"""Keys that Hydra reads beside the arguments."""
