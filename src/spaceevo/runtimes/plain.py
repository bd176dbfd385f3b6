"""Network → plain fp32 PyTorch: a JSON description, safetensors, and the one source file that reads them.

The writers of fp32 files of other formats go through the same layers, batch norm folded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from spaceevo.artifacts import write_bytes, write_json
from spaceevo.nn.layers import ElasticLayer
from spaceevo.nn.supernet import Network
from spaceevo.quant.prepare import float_state
from spaceevo.runtimes import plain_network
from spaceevo.runtimes.plain_network import FORMAT, Description, PlainNetwork


class _Describer:
    """Writes layers down as the plain network's config has them."""

    def __init__(self, network: Network) -> None:
        self.paths = {module: path for path, module in network.named_modules()}
        self.layers: list[Description] = []

    def layer(self, name: str, leaf: ElasticLayer, inputs: Sequence[str], /) -> str:
        self.layers.append({"name": name, "inputs": list(inputs), "module": self.paths[leaf], **asdict(leaf.active)})
        return name


def to_plain(network: Network, metadata: Mapping[str, str] | None = None) -> PlainNetwork:
    """Copy a network in fp32, on the CPU, as a plain one; quantisers are left behind."""
    describer = _Describer(network)
    network.lower(describer, "images")
    plain = PlainNetwork(
        {
            "format": FORMAT,
            "resolution": network.resolution,
            "metadata": dict(metadata or {}),
            "layers": describer.layers,
        }
    )
    plain.load_state_dict(float_state(network.state_dict()))
    return plain.eval()


class Convolution(NamedTuple):
    """Holds weight `(Cout, Cin/groups, K, K)` and bias `(Cout,)` in the network's precision."""

    weight: NDArray[np.floating]
    bias: NDArray[np.floating]


def folded(plain: PlainNetwork, layer: Description) -> list[Convolution]:
    """Return a layer's stacked convolutions; the last has taken in batch norm."""
    found = []
    for index in range(layer["stack"]):
        conv = plain.get_submodule(f"{layer['module']}.convs.{index}")
        assert isinstance(conv, nn.Conv2d)
        if layer["norm"] and index == layer["stack"] - 1:
            norm = plain.get_submodule(f"{layer['module']}.norm")
            assert isinstance(norm, nn.BatchNorm2d)
            conv = fuse_conv_bn_eval(conv, norm)
        weight = conv.weight.detach().numpy()
        bias = np.zeros(len(weight), weight.dtype) if conv.bias is None else conv.bias.detach().numpy()
        found.append(Convolution(weight, bias))
    return found


def save_plain(plain: PlainNetwork, path: Path) -> list[Path]:
    """Write `path` (`.json`), the `.safetensors` beside it, and the source file that reads both; return all three."""
    source = Path(plain_network.__file__)
    weights, reader = path.with_suffix(".safetensors"), path.with_name(source.name)
    write_bytes(weights, save(plain.state_dict(), {"format": "pt"}))
    write_bytes(reader, source.read_bytes())
    write_json(path, plain.config)
    return [path, weights, reader]
