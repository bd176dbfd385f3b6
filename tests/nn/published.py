"""Networks of ours as released files hold them: names of layers and tensors by FACTS §12."""

import re
from typing import TypeVar

import torch
from torch import Tensor, nn

from spaceevo.nn.stage import Stage
from spaceevo.quant.prepare import quantizers
from spaceevo.space.blocks import block_types

State = dict[str, Tensor]
STEM_HEAD = {"conv": "conv"}
MOBILE_V1 = {"depth_conv": "depthwise", "point_conv": "pointwise"}
MOBILE_V1_DUAL = {
    **{f"{theirs}{i}": f"{ours}{i}" for theirs, ours in MOBILE_V1.items() for i in (1, 2)},
    "downsample": "shortcut",
}
SQUEEZE = {"se.fc.reduce": "se_reduce", "se.fc.expand": "se_expand"}
MOBILE = {
    "point_conv1": "expand",
    "depth_conv": "depthwise",
    "point_conv2": "project",
    "downsample": "shortcut",
    **SQUEEZE,
}
FUSED = {"fused_conv": "conv", "point_conv": "project", "downsample": "shortcut", **SQUEEZE}
RESNET = {"conv1": "reduce", "conv2": "conv", "conv3": "project", "downsample": "shortcut", **SQUEEZE}
LAYERS = {
    "FirstConv": STEM_HEAD,
    "FinalExpand": STEM_HEAD,
    "FeatureMix": STEM_HEAD,
    "MobileNetV1": MOBILE_V1,
    "MobileNetV1Dual": MOBILE_V1_DUAL,
    **{name: MOBILE for name in block_types() if name.startswith(("MobileNetV2", "MobileNetV3"))},
    **{name: FUSED for name in block_types() if name.startswith("Fused")},
    **{name: RESNET for name in block_types() if name.startswith("ResNet")},
}
SCALARS = {"sw": "weight_quantizer.scale", "sa": "input_quantizer.scale", "beta": "input_quantizer.offset"}
HEADS = ("FinalExpand", "FeatureMix")
LEAVES = {ours: theirs for theirs, ours in SCALARS.items()}


def published_name(key: str, kinds: dict[str, str], extracted: bool) -> str:
    """`stages.stage1.blocks.0.layers.expand.convs.0.weight` → `stages.stage1.blocks.0.point_conv1.conv.weight`."""
    match = re.fullmatch(r"(.*)\.blocks\.(\d+)\.layers\.(\w+)\.(norm|convs\.(\d))\.(.+)", key)
    if match is None:
        return key.replace(".convs.0.", ".").replace(".convs.0", "")
    stage, index, layer, part, conv, leaf = match.groups()
    kind = kinds[stage]
    theirs = "linear" if kind == "Logits" else {ours: name for name, ours in LAYERS[kind].items()}[layer]
    inner = {"conv": "conv", "depth": "dwconv"}["depth" if theirs.startswith("depth") else "conv"]
    if "K3" in kind and inner == "dwconv":
        inner += f".{conv}" if extracted else f".dwconv{conv}"
    if kind == "Logits" or theirs.startswith("se."):
        inner = ""
    names = [stage, *([] if extracted else ["blocks"]), index, theirs, "norm" if part == "norm" else inner]
    return ".".join([*(name for name in names if name), LEAVES.get(leaf, leaf)])


def published(module: nn.Module, *, extracted: bool = False) -> State:
    """The module's state as a released file has it."""
    kinds = {
        n: child.active_blocks[0].block_type.name for n, child in module.named_modules() if isinstance(child, Stage)
    }
    state = {}
    for key, value in module.state_dict().items():
        if key.endswith(".initialized"):
            continue
        value = value.reshape(1) if "quantizer" in key else value
        value = value[..., 0, 0] if key.endswith(".linear.convs.0.weight") else value
        name = published_name(key, kinds, extracted)
        for ours, theirs in LEAVES.items():
            name = name.removesuffix(f".{ours}") + f".{theirs}" if name.endswith(f".{ours}") else name
        state[name] = value.clone()
    return state


Net = TypeVar("Net", bound=nn.Module)


@torch.no_grad()
def trained(module: Net, scheme_on: bool = True) -> Net:
    """Random weights and statistics; quantisers as after INT8 training, but for one site that never ran."""
    for index, (name, tensor) in enumerate(module.state_dict().items()):
        if tensor.is_floating_point() and "quantizer" not in name:
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and scheme_on and "shortcut" not in name:
            tensor.fill_(0.01 + index / 1e5)
    for name, quantizer in quantizers(module).items():
        quantizer.initialized.fill_(scheme_on and "shortcut" not in name)
    return module.eval()
