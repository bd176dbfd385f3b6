"""Networks with weights: published ones by name, as timm makes its models, and supernets, trained or random."""

from pathlib import Path
from typing import NamedTuple

import torch

from spaceevo.errors import CheckpointError
from spaceevo.nn.loading import Checkpoint, read_checkpoint
from spaceevo.nn.subnets import with_outputs_of
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.prepare import set_quant
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.published import published_model
from spaceevo.space.superspace import SpaceMember


def create_model(name: str, checkpoint: str | Path | None = None, *, quant: str | None = None) -> Network | Supernet:
    """Make a published network by name, in eval mode.

    Args:
        name: `SEQnet@vnni-A0` …, or `spaceevo@vnni` … for a whole supernet.
        checkpoint: its weights: an exported subnet (`.safetensors`, `.pth`), or a checkpoint of its supernet, ours or a
            released one, of which the subnet is taken (recalibrate its batch norm then). Without, weights are random.
            The classifier has as many outputs as that file's.
        quant: scheme of its quantisers, `deploy` unless the checkpoint was trained under another; they are on where
            the checkpoint holds INT8 weights.

    Raises:
        ConfigError: no such model or scheme.
        CheckpointError: the file is broken, or belongs to another network or scheme.
    """
    model = published_model(name)
    if checkpoint is None:
        return _empty(model.member, model.spec, quant or "deploy").eval()
    weights = read_checkpoint(Path(checkpoint), f"weights of {name}")
    meta = weights.meta
    if quant is not None and meta.int8 and meta.quant != quant:
        raise CheckpointError(f"{checkpoint} was trained under quant={meta.quant}, not {quant}; leave quant out")
    scheme = meta.quant if meta.int8 else quant or "deploy"
    if model.spec is not None:
        return subnet_with(weights, model.member, model.spec, scheme, int8=meta.int8).network
    supernet = Supernet(with_outputs_of(weights, model.member), scheme)
    weights.load_into(supernet, int8=meta.int8)
    return supernet.eval()


class Taken(NamedTuple):
    """Holds a subnet with the weights of a checkpoint."""

    network: Network  # in eval mode
    member: SpaceMember  # its space, with a classifier of as many outputs as the weights have
    is_of_supernet: bool  # whether it was taken out of a whole supernet, whose statistics are not its own


def subnet_with(weights: Checkpoint, member: SpaceMember, spec: SubnetSpec, scheme: str, *, int8: bool) -> Taken:
    """Make a subnet with its own weights, or with those of a supernet, of whatever number of classes.

    Raises:
        CheckpointError: the weights belong to another network.
    """
    member = with_outputs_of(weights, member)
    if _of_supernet(weights, member, spec, scheme):
        supernet = Supernet(member, scheme)
        weights.load_into(supernet, int8=int8)
        return Taken(supernet.eval().extract(spec), member, True)
    network = _empty(member, spec, scheme)
    weights.load_into(network, int8=int8)
    return Taken(network.eval(), member, False)


def _empty(member: SpaceMember, spec: SubnetSpec | None, scheme: str) -> Network:
    """A space's supernet, or one subnet, with random weights."""
    return Supernet(member, scheme) if spec is None else Network.fixed(member, spec, quant_scheme(scheme))


def _of_supernet(weights: Checkpoint, member: SpaceMember, spec: SubnetSpec, scheme: str) -> bool:
    """Whether weights are a whole supernet's rather than this subnet's."""
    if weights.released is not None:
        return any(".blocks." in key for key in weights.state)
    with torch.device("meta"):
        own = Network.fixed(member, spec, quant_scheme(scheme)).state_dict()
    return any(key not in own or own[key].shape != value.shape for key, value in weights.state.items())


def random_supernet(member: SpaceMember, quant: str, *, int8: bool, seed: int) -> Supernet:
    """Make a supernet that has not been trained, in eval mode: what does not depend on weights can be tried with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        supernet = Supernet(member, quant)
    set_quant(supernet, int8)
    return supernet.eval()


def read_supernet(member: SpaceMember, path: Path, *, int8: bool, command: str) -> Checkpoint:
    """Read the weights of a supernet from a file, ours or a released one; `command` makes the file.

    Raises:
        MissingArtifactError: the file is not there.
        CheckpointError: it is broken, holds code, or belongs to another space.
    """
    weights = read_checkpoint(path, f"{'INT8' if int8 else 'fp32'} supernet {member}", command)
    space = weights.meta.space
    if space not in ("", str(member)):
        raise CheckpointError(f"{path} is of space {space}, not {member}; set space={space}")
    return weights


def trained_supernet(member: SpaceMember, quant: str, weights: Checkpoint, *, int8: bool) -> Supernet:
    """Make a supernet with weights that were read, in eval mode.

    With `int8`, quantisers are on, and the weights must be INT8 ones of this scheme.

    Raises:
        CheckpointError: the weights belong to another network.
        ConfigError: they were trained under another scheme, or not in INT8.
    """
    if int8:
        weights.require_quant(quant)
    supernet = Supernet(member, quant)
    weights.load_into(supernet, int8=int8)
    supernet.origin = str(weights.path)
    return supernet.eval()
