"""Our checkpoints: tensors and plain values, written atomically, read without executing anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spaceevo.artifacts import atomic_path
from spaceevo.errors import CheckpointError, MissingArtifactError, choices


class Checkpoint(NamedTuple):
    """Weights, and what is known of them: fingerprint, figures, space."""

    state: dict[str, Tensor]
    meta: dict[str, Any]


def save_checkpoint(path: Path, module: nn.Module, meta: dict[str, Any]) -> None:
    """Write a module's state dict with `meta` (plain values only)."""
    state = {key: value.detach().cpu() for key, value in module.state_dict().items()}
    with atomic_path(path) as temporary:
        torch.save({"state_dict": state, "meta": meta}, temporary)


def read_checkpoint(path: Path, what: str, command: str) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        MissingArtifactError: the file is not there; names `command`, which makes it.
        CheckpointError: the file is truncated or not one of ours.
    """
    if not path.is_file():
        raise MissingArtifactError(what, path, command)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return Checkpoint(content["state_dict"], content["meta"])
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{what} {path} is not readable ({reason}); make it again with: {command}") from error


def load_state(module: nn.Module, state: dict[str, Tensor], path: Path, *, strict: bool = True) -> None:
    """Load weights; without `strict`, keys the file lacks keep their values (quantisers, when it is an fp32 file).

    Raises:
        CheckpointError: a key or shape does not fit; names the first ones.
    """
    own = module.state_dict()
    wrong = [
        f"{k} {tuple(v.shape)} here {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    wrong += [f"{key} is not in this network" for key in state if key not in own]
    wrong += [f"{key} is missing" for key in own if strict and key not in state]
    if wrong:
        raise CheckpointError(f"{path} belongs to another network: {choices(wrong, limit=3)}")
    module.load_state_dict(state, strict=False)
