"""Checkpoints of single subnets: they stand alone, without their supernet."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from spaceevo.errors import CheckpointError, choices
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint
from spaceevo.nn.loading import read_checkpoint
from spaceevo.nn.supernet import Network
from spaceevo.quant.quantizer import DEPLOY, quant_scheme
from spaceevo.space.description import parse_space
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.superspace import SpaceMember, Superspace


class Subnet(NamedTuple):
    """Holds a network that stands alone, and what it is."""

    network: Network  # in eval mode, quantisers on unless `quant` is `off`
    member: SpaceMember  # its space; the classifier has as many outputs as there are classes
    spec: SubnetSpec  # the subnet
    classes: tuple[str, ...]  # names of the classes, by label
    quant: str  # scheme its weights were trained under: `deploy`, `published`, or `off` for fp32
    meta: CheckpointMeta  # everything that was kept beside the weights


def save_subnet(
    path: Path,
    network: Network,
    member: SpaceMember,
    spec: SubnetSpec,
    classes: Sequence[str],
    quant: str,
    fingerprint: str = "",
) -> None:
    """Write an extracted network as a checkpoint that needs no supernet.

    Args:
        path: the file to write.
        network: the network.
        member: its space.
        spec: the subnet.
        classes: names of the classes, by label.
        quant: scheme of its weights, or `off`.
        fingerprint: hash of the weights and images that it comes from.
    """
    meta = CheckpointMeta(
        space=str(member), subnet=str(spec), classes=tuple(classes), quant=quant, fingerprint=fingerprint
    )
    save_checkpoint(path, network, meta)


def holds_subnet(path: Path) -> bool:
    """Tell whether a file is a subnet's own checkpoint, not a supernet's."""
    return bool(read_checkpoint(path, "subnet or supernet").meta.subnet)


def read_subnet(path: Path, superspace: Superspace, command: str) -> Subnet:
    """Read what `save_subnet` wrote, or any checkpoint that says as much of its weights; `command` makes such a file.

    Raises:
        CheckpointError: the file is broken, or is no subnet's.
        EncodingError: its space is not of this superspace.
    """
    checkpoint = read_checkpoint(path, "subnet", command)
    meta = checkpoint.meta
    if missing := [name for name in ("space", "subnet", "classes", "quant") if not getattr(meta, name)]:
        remedy = f"; make one: {command}" if command else ""
        raise CheckpointError(f"{path} is not a subnet's checkpoint: it lacks {choices(missing)}{remedy}")
    head = f"stages.{superspace.stages[-1].name}."
    # A classifier may be wider than the data had classes.
    biases = (len(v) for k, v in checkpoint.state.items() if k.startswith(head) and k.endswith(".bias"))
    member = parse_space(meta.space, within=superspace.with_classes(next(biases, len(meta.classes))))
    spec = SubnetSpec.parse(meta.subnet)
    network = Network.fixed(member, spec, quant_scheme(meta.quant) if meta.int8 else DEPLOY)
    checkpoint.load_into(network, int8=meta.int8)
    return Subnet(network.eval(), member, spec, meta.classes, meta.quant, meta)
