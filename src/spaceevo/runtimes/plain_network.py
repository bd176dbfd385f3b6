"""Reads an exported fp32 network as plain PyTorch; this file needs torch and safetensors only, and is exported with it.

network = load("subnet_fp32.json")   # reads subnet_fp32.safetensors beside it
logits = network(images)             # (N, C, H, W), normalised, any size → (N, classes)
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

FORMAT = "spaceevo.plain"
Description = dict[str, Any]  # a part of the JSON file: the whole, or one layer
ACTIVATIONS = {
    "none": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hswish": functional.hardswish,
    "swish": functional.silu,
    "hsigmoid": functional.hardsigmoid,
}
JOINS: dict[str, Callable[..., Tensor]] = {
    "pool": lambda x: x.mean((2, 3), keepdim=True),
    "add": torch.add,
    "mul": torch.mul,
}


class PlainNetwork(nn.Module):
    """Runs layers in order over named tensors.

    Args:
        config: `resolution` of the images, and `layers`: each with its `name`, `inputs`, path of its `module`, `kind`
            (conv, depthwise, linear, pool, add, mul), sizes, and activation `act`.
    """

    def __init__(self, config: Description) -> None:
        super().__init__()
        self.config = config
        for layer in config["layers"]:
            if layer["kind"] in ("conv", "depthwise", "linear"):
                for index in range(layer["stack"]):
                    self._place(f"{layer['module']}.convs.{index}", _convolution(layer, index))
                if layer["norm"]:
                    self._place(f"{layer['module']}.norm", nn.BatchNorm2d(layer["cout"]))

    def _place(self, path: str, module: nn.Module) -> None:
        *parents, name = path.split(".")
        place: nn.Module = self
        for parent in parents:
            if parent not in dict(place.named_children()):
                place.add_module(parent, nn.Module())
            place = place.get_submodule(parent)
        place.add_module(name, module)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits `(N, classes)` of images `(N, C, H, W)`, which are resized to the network's resolution."""
        size = (self.config["resolution"],) * 2
        if images.shape[-2:] != size:
            images = functional.interpolate(images, size, mode="bicubic", align_corners=False)
        values = {"images": images}
        for layer in self.config["layers"]:
            x = self._compute(layer, [values[name] for name in layer["inputs"]])
            values[layer["name"]] = ACTIVATIONS[layer["act"]](x)
        return values[self.config["layers"][-1]["name"]].flatten(1)

    def _compute(self, layer: Description, inputs: list[Tensor]) -> Tensor:
        if layer["kind"] in JOINS:
            return JOINS[layer["kind"]](*inputs)
        (x,) = inputs
        for index in range(layer["stack"]):
            x = self.get_submodule(f"{layer['module']}.convs.{index}")(x)
        return self.get_submodule(f"{layer['module']}.norm")(x) if layer["norm"] else x


def _convolution(layer: Description, index: int) -> nn.Conv2d:
    """One of a layer's stacked convolutions; the first has the stride. A linear layer is a 1×1 convolution."""
    return nn.Conv2d(
        layer["cin"] if index == 0 else layer["cout"],
        layer["cout"],
        layer["kernel"],
        layer["stride"] if index == 0 else 1,
        padding=layer["kernel"] // 2,
        groups=layer["cin"] if layer["kind"] == "depthwise" else 1,
        bias=not layer["norm"],
    )


def load(path: str | Path) -> PlainNetwork:
    """Read an exported network in eval mode: its `.json`, and the `.safetensors` of the same name beside it.

    Raises:
        ValueError: the file has another format.
    """
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    if config.get("format") != FORMAT:
        raise ValueError(f"{path} has format {config.get('format')!r}; this reads {FORMAT}")
    with torch.device("meta"):
        network = PlainNetwork(config)
    network.load_state_dict(load_file(Path(path).with_suffix(".safetensors")), assign=True)
    return network.eval()
