"""Our checkpoints: tensors and plain values, written atomically, read without executing anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spaceevo.artifacts import atomic_path
from spaceevo.errors import CheckpointError, MissingArtifactError, choices
from spaceevo.nn.supernet import Network
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.quantizer import DEPLOY, quant_scheme
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember, Superspace


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


class Subnet(NamedTuple):
    """A network that stands alone, and what it is.

    Attributes:
        network: in eval mode, quantisers on unless `quant` is `off`.
        member: its space; the classifier has as many outputs as there are classes.
        spec: the subnet.
        classes: names of the classes, by label.
        quant: scheme its weights were trained under: `deploy`, `published`, or `off` for fp32.
        meta: everything else that was kept beside the weights.
    """

    network: Network
    member: SpaceMember
    spec: SubnetSpec
    classes: tuple[str, ...]
    quant: str
    meta: dict[str, Any]


def subnet_meta(member: SpaceMember, spec: SubnetSpec, classes: Sequence[str], quant: str) -> dict[str, Any]:
    """What the checkpoint of a subnet says of its weights; `read_subnet` needs no more."""
    return {"space": str(member), "subnet": str(spec), "classes": list(classes), "quant": quant}


def save_subnet(
    path: Path, network: Network, member: SpaceMember, spec: SubnetSpec, classes: Sequence[str], quant: str
) -> None:
    """Write an extracted network as a checkpoint that needs no supernet."""
    save_checkpoint(path, network, subnet_meta(member, spec, classes, quant))


def read_subnet(path: Path, superspace: Superspace, command: str) -> Subnet:
    """Read what `save_subnet` wrote, or any checkpoint whose meta is that of `subnet_meta`.

    Args:
        path: the checkpoint.
        superspace: the superspace of its space.
        command: makes such a file, for messages.

    Raises:
        MissingArtifactError: the file is not there.
        CheckpointError: the file is broken, or is no subnet's.
        EncodingError: its space is not of this superspace.
    """
    state, meta = read_checkpoint(path, "subnet", command)
    if missing := [key for key in ("space", "subnet", "classes", "quant") if key not in meta]:
        raise CheckpointError(f"{path} is not a subnet's checkpoint: it lacks {choices(missing)}; make one: {command}")
    classes, quant = tuple(meta["classes"]), str(meta["quant"])
    head = f"stages.{superspace.stages[-1].name}."
    # A classifier may be wider than the data had classes.
    width = next((len(v) for k, v in state.items() if k.startswith(head) and k.endswith(".bias")), len(classes))
    member = parse_space(meta["space"], within=superspace.with_classes(width))
    spec = SubnetSpec.parse(meta["subnet"])
    network = Network.fixed(member, spec, DEPLOY if quant == "off" else quant_scheme(quant))
    load_state(network, state, path)
    set_quant(network, quant != "off")
    return Subnet(network.eval(), member, spec, classes, quant, meta)
