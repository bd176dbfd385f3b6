"""Checkpoints of single subnets: they stand alone, without their supernet."""

from pathlib import Path
from typing import NamedTuple

from spaceevo.errors import CheckpointError, choices
from spaceevo.nn.checkpoint import CheckpointMeta
from spaceevo.nn.loading import Checkpoint, read_checkpoint
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
    quant: str  # scheme its weights were trained under, e.g. `deploy`, or `off` for fp32
    meta: CheckpointMeta  # everything that was kept beside the weights


def read_subnet(path: Path, superspace: Superspace, command: str) -> Subnet:
    """Read any checkpoint that says that its weights are a subnet's; `command` makes such a file.

    Raises:
        CheckpointError: the file is broken, or is no subnet's.
        EncodingError: its space is not of this superspace.
    """
    checkpoint = read_checkpoint(path, "subnet", command)
    meta = checkpoint.meta
    if missing := [name for name in ("space", "subnet", "classes", "quant") if not getattr(meta, name)]:
        remedy = f"; make one: {command}" if command else ""
        raise CheckpointError(f"{path} is not a subnet's checkpoint: it lacks {choices(missing)}{remedy}")
    within = superspace.with_classes(len(meta.classes))
    member = with_outputs_of(checkpoint, parse_space(meta.space, within=within))
    spec = SubnetSpec.parse(meta.subnet)
    network = Network.fixed(member, spec, quant_scheme(meta.quant) if meta.int8 else DEPLOY)
    checkpoint.load_into(network, int8=meta.int8)
    network.origin = str(path)
    return Subnet(network.eval(), member, spec, meta.classes, meta.quant, meta)


def with_outputs_of(weights: Checkpoint, member: SpaceMember) -> SpaceMember:
    """Return a space with a classifier of as many outputs as weights have, which may be more than there are classes."""
    head = f"stages.{member.superspace.stages[-1].name}."
    outputs = {len(v) for k, v in weights.state.items() if k.startswith(head) and k.endswith(".bias")}
    if len(outputs) != 1:
        return member
    return member.superspace.with_classes(outputs.pop()).member(member.blocks, member.windows, member.align)
