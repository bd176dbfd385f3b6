"""Published networks made by name, as timm makes its models."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from spaceevo.errors import CheckpointError
from spaceevo.nn.block import Block
from spaceevo.nn.checkpoint import load_state, read_checkpoint
from spaceevo.nn.stage import Stage
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.prepare import float_state, set_quant
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.published import published_model
from spaceevo.space.superspace import SpaceMember


def make_network(member: SpaceMember, spec: SubnetSpec, quant: str = "deploy") -> Network:
    """A subnet with fresh random weights, quantisers off.

    Raises:
        EncodingError: `spec` is not a subnet of `member`.
        ConfigError: no such quantisation scheme.
    """
    member.validate(spec)
    scheme = quant_scheme(quant)
    stages = {
        name: Stage([Block([block], scheme) for block in blocks]) for name, blocks in member.block_specs(spec).items()
    }
    return Network(stages, spec.resolution, scheme.tensor_quantizer())


def create_model(name: str, checkpoint: str | Path | None = None, *, quant: str | None = None) -> Network | Supernet:
    """A published network by name, in eval mode.

    Args:
        name: `SEQnet@vnni-A0` …, or `spaceevo@vnni` … for a whole supernet.
        checkpoint: its weights: an exported subnet (`.safetensors`, `.pth`) or a supernet's checkpoint, of which the
            subnet is taken (recalibrate its batch norm then). Without, weights are random.
        quant: scheme of its quantisers, `deploy` unless the checkpoint was trained under another; they are on where
            the checkpoint holds INT8 weights.

    Raises:
        ConfigError: no such model or scheme.
        CheckpointError: the file is broken, or belongs to another network or scheme.
    """
    model = published_model(name)
    path = None if checkpoint is None else Path(checkpoint)
    state, trained = ({}, "off") if path is None else _read(path)
    if quant is not None and trained not in ("off", quant):
        raise CheckpointError(f"{path} was trained under quant={trained}, not {quant}; leave quant out")
    scheme = quant or ("deploy" if trained == "off" else trained)
    whole = model.spec is None or (path is not None and _is_supernet(model.member, model.spec, scheme, state))
    network: Network
    if whole or model.spec is None:
        network = supernet = Supernet(model.member, scheme)
    else:
        network = make_network(model.member, model.spec, scheme)
    if path is not None:
        int8 = trained != "off"
        load_state(network, state if int8 else float_state(state), path, strict=int8)
        set_quant(network, int8)
    network.eval()
    return supernet.extract(model.spec) if whole and model.spec is not None else network


def _is_supernet(member: SpaceMember, spec: SubnetSpec, quant: str, state: dict[str, Tensor]) -> bool:
    """Whether weights are of another shape than the subnet's: those of its supernet."""
    with torch.device("meta"):
        own = make_network(member, spec, quant).state_dict()
    return any(key not in own or own[key].shape != value.shape for key, value in state.items())


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """Weights, and the scheme they were trained under or `off`."""
    if path.suffix != ".safetensors":
        checkpoint = read_checkpoint(path, "the checkpoint", "python -m spaceevo +stage=export")
        return checkpoint.state, str(checkpoint.meta.get("quant", "off"))
    try:
        return load_file(path), "off"
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}); export it again") from error
