"""Published networks made by name, as timm makes its models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from spaceevo.errors import CheckpointError
from spaceevo.nn.checkpoint import load_state
from spaceevo.nn.foreign import read_foreign
from spaceevo.nn.released import Released, is_released, load_parsed, parse_released
from spaceevo.nn.supernet import Network, Supernet
from spaceevo.quant.prepare import float_state, set_quant
from spaceevo.quant.quantizer import quant_scheme
from spaceevo.space.encoding import SubnetSpec
from spaceevo.space.published import published_model
from spaceevo.space.superspace import SpaceMember


def create_model(name: str, checkpoint: str | Path | None = None, *, quant: str | None = None) -> Network | Supernet:
    """A published network by name, in eval mode.

    Args:
        name: `SEQnet@vnni-A0` …, or `spaceevo@vnni` … for a whole supernet.
        checkpoint: its weights: an exported subnet (`.safetensors`, `.pth`), or a checkpoint of its supernet, ours or a
            released one, of which the subnet is taken (recalibrate its batch norm then). Without, weights are random.
        quant: scheme of its quantisers, `deploy` unless the checkpoint was trained under another; they are on where
            the checkpoint holds INT8 weights.

    Raises:
        ConfigError: no such model or scheme.
        CheckpointError: the file is broken, or belongs to another network or scheme.
    """
    model = published_model(name)
    weights = _NO_WEIGHTS if checkpoint is None else _read(Path(checkpoint))
    if quant is not None and weights.quant not in ("off", quant):
        raise CheckpointError(f"{checkpoint} was trained under quant={weights.quant}, not {quant}; leave quant out")
    scheme = quant or ("deploy" if weights.quant == "off" else weights.quant)
    if model.spec is None:
        network: Network = Supernet(model.member, scheme)
    elif checkpoint is not None and weights.of_supernet(_shapes_of(model.member, model.spec, scheme)):
        supernet = Supernet(model.member, scheme)
        weights.load(supernet, Path(checkpoint))
        return supernet.eval().extract(model.spec)
    else:
        network = Network.fixed(model.member, model.spec, quant_scheme(scheme))
    if checkpoint is not None:
        weights.load(network, Path(checkpoint))
    return network.eval()


def _shapes_of(member: SpaceMember, spec: SubnetSpec, quant: str) -> Network:
    """A subnet's shapes without its weights."""
    with torch.device("meta"):
        return Network.fixed(member, spec, quant_scheme(quant))


@dataclass(frozen=True)
class _Weights:
    """What a file holds.

    Attributes:
        state: tensors, by our names.
        quant: scheme they were trained under, or `off`.
        released: a released checkpoint instead, by its names.
    """

    state: dict[str, Tensor]
    quant: str
    released: Released | None = None

    def of_supernet(self, subnet: Network) -> bool:
        """Whether they are a whole supernet's rather than this subnet's."""
        if self.released is not None:
            return any(".blocks." in key for key in self.released.state)
        own = subnet.state_dict()
        return any(key not in own or own[key].shape != value.shape for key, value in self.state.items())

    def load(self, network: Network, path: Path) -> None:
        """Put them into a network; its quantisers are on if they were trained in INT8."""
        int8 = self.quant != "off"
        if self.released is not None:
            load_parsed(network, self.released, path)
        else:
            load_state(network, self.state if int8 else float_state(self.state), path, strict=int8)
        set_quant(network, int8)


_NO_WEIGHTS = _Weights({}, "off")


def _read(path: Path) -> _Weights:
    if path.suffix == ".safetensors":
        try:
            return _Weights(load_file(path), "off")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file ({error}); export it again") from error
    content = read_foreign(path)
    if is_released(content):
        released = parse_released(content, path)
        return _Weights({}, "published" if released.int8 else "off", released)
    return _Weights(dict(content["state_dict"]), str(content["meta"].get("quant", "off")))
