"""Released checkpoints of the published system → our networks: names, shapes, quantisers.

Known formats: supernets and extracted subnets (`state_dict`), students of block-wise distillation (`model`), and the
EfficientNet teacher (`model`, names of the package `efficientnet_pytorch`); each in fp32 or with LSQ+ scales.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from spaceevo.errors import CheckpointError, choices
from spaceevo.nn.block import Block
from spaceevo.nn.stage import Stage
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import Network
from spaceevo.quant.prepare import float_state
from spaceevo.space.blocks import BlockType, types

State = dict[str, Tensor]
Kind = Literal["supernet", "block", "teacher"]

_SQUEEZE = {"se.fc.reduce": "se_reduce", "se.fc.expand": "se_expand"}
_SHORTCUT = {"downsample": "shortcut"}
_LAYERS: tuple[tuple[type[BlockType], dict[str, str]], ...] = (
    (types.MobileNetV1, {"depth_conv": "depthwise", "point_conv": "pointwise"}),
    (
        types.MobileNetV1Dual,
        {f"{one}_conv{i}": f"{one}wise{i}" for one in ("depth", "point") for i in (1, 2)} | _SHORTCUT,
    ),
    (
        types.MobileNetV2,
        {"point_conv1": "expand", "depth_conv": "depthwise", "point_conv2": "project", **_SQUEEZE, **_SHORTCUT},
    ),
    (types.FusedMBConvRes, {"fused_conv": "conv", "point_conv": "project", **_SQUEEZE, **_SHORTCUT}),
    (types.ResNet, {"conv1": "reduce", "conv2": "conv", "conv3": "project", **_SQUEEZE, **_SHORTCUT}),
    (BlockType, {"conv": "conv", "linear": "linear"}),
)
"""Published layer name → ours, by family of block types; the first family that fits counts."""
_OPTIONAL = re.compile(r".*\.layers\.(expand|shortcut)(\..*)?")
"""Layers that released elastic files hold for every block, whether a choice uses them or not."""
_START = {"sw": 1.0, "sa": 1.0, "beta": 0.0}
"""Weight scale, activation scale and offset of a layer that never ran in INT8."""
_LEAVES = {
    "sw": ("weight_quantizer.scale", "parametrizations.weight.0.scale"),
    "sa": ("input_quantizer.scale",),
    "beta": ("input_quantizer.offset",),
    "weight": ("weight", "parametrizations.weight.original"),
}
"""Published name of a layer's tensor → ours, in networks of our own and in prepared library models."""


class Released(NamedTuple):
    """Holds the content of a released checkpoint: tensors by published name, and the finished epochs, if it says."""

    kind: Kind
    state: State
    epochs: int | None

    @property
    def sites(self) -> dict[str, bool]:
        """Quantised layers, and whether each ever ran in INT8; one that did not is still at (1, 1, 0)."""
        names = [key.removesuffix(".sw") for key in self.state if key.endswith(".sw")]
        return {name: _ran(self.state, name) for name in names}

    @property
    def int8(self) -> bool:
        """Whether it was trained in INT8."""
        return any(self.sites.values())

    @property
    def classes(self) -> int | None:
        """Number of a teacher's classes; None for other networks, and without a classifier."""
        classifier = self.state.get("_fc.weight")
        return None if classifier is None else len(classifier)


class Loaded(NamedTuple):
    """Says what loading a released checkpoint did."""

    epochs: int | None  # finished epochs of the file; None where it does not say
    quantised: int  # number of layers whose scales were taken over
    unused: tuple[str, ...]  # published names that the network has no use for


def _ran(state: Mapping[str, Tensor], site: str) -> bool:
    return any(state[f"{site}.{leaf}"].item() != start for leaf, start in _START.items() if f"{site}.{leaf}" in state)


def parse_released(content: Mapping[str, object], path: Path) -> Released:
    """Recognise the content of a released checkpoint by the names of its tensors."""
    holders = (content.get(key) for key in ("state_dict", "model"))
    tensors = next((holder for holder in holders if isinstance(holder, Mapping)), content)
    state = {str(k).removeprefix("module."): v.detach() for k, v in tensors.items() if isinstance(v, Tensor)}
    kinds: dict[str, Kind] = {"stages.": "supernet", "stage.": "block", "_conv_stem.": "teacher"}
    kind = next((kinds[p] for p in kinds if any(key.startswith(p) for key in state)), None)
    if kind is None:
        raise CheckpointError(
            f"checkpoint {path} is in no known format; expected names that start with {choices(kinds)}; "
            f"it has {choices(state, limit=3) or 'no tensors'}"
        )
    epoch = content.get("epoch")
    finished = epoch + (kind == "block") if isinstance(epoch, int) else None  # block files note the last one's index
    return Released(kind, state, finished)


def load_parsed(network: nn.Module, released: Released, path: Path) -> Loaded:
    """Load a released checkpoint that has been read; see `nn.loading.load_released`."""
    network = getattr(network, "model", network)
    own, rename = network.state_dict(), _renamer(network)
    taken: State = {}
    faults, unused, quantised = list[str](), list[str](), set[str]()
    sites = {site: rename(site) for site in released.sites}
    quantises = {site for site, ours in sites.items() if f"{ours}.input_quantizer.scale" in own}
    for key, value in released.state.items():
        site, _, leaf = key.rpartition(".")
        path_here = rename(site)
        ours = next((name for name in _candidates(path_here, leaf) if name in own), None)
        if ours is None and path_here is not None and _OPTIONAL.fullmatch(path_here):
            unused.append(key)
        elif leaf in _START and site not in quantises:
            continue
        elif ours is None:
            faults.append(f"{key} is not in this network")
        elif not _fits(value, own[ours]):
            faults.append(f"{key} {tuple(value.shape)} here {tuple(own[ours].shape)}")
        else:
            taken[ours] = value.reshape(own[ours].shape)
            if leaf in ("sw", "sa"):
                taken[ours.removesuffix("scale") + "initialized"] = torch.tensor(_ran(released.state, site))
                quantised |= {site} if _ran(released.state, site) else set()
    faults += [f"{key} is missing" for key in float_state(own) if key not in taken]
    if faults:
        raise CheckpointError(f"{path} belongs to another network: {choices(faults, limit=3)}")
    network.load_state_dict(taken, strict=False)
    return Loaded(released.epochs, len(quantised), tuple(unused))


def _candidates(path: str | None, leaf: str) -> list[str]:
    return [] if path is None else [f"{path}.{ours}" for ours in _LEAVES.get(leaf, (leaf,))]


def _fits(value: Tensor, own: Tensor) -> bool:
    """Same shape, but for the two sizes of 1 that our linear layers add, and the one that our scalars lack."""
    return value.numel() == own.numel() and (value.shape == own.shape[: value.ndim] or value.numel() == 1)


def _renamer(network: nn.Module) -> Callable[[str], str | None]:
    """Published name of a convolution, linear layer or norm → ours; None where the network has no such place."""
    if isinstance(network, Network):
        return partial(_in_stages, {f"stages.{name}": stage for name, stage in network.active_stages.items()})
    if isinstance(network, BlockStudent):
        return partial(_in_stages, {"stage": network.stage})
    return _efficientnet_names(network).get


def _in_stages(stages: Mapping[str, Stage], name: str) -> str | None:
    """Place of `stage.blocks.0.depth_conv.dwconv.dwconv1` in a stage: `stage.blocks.0.layers.depthwise.convs.1`."""
    if match := re.fullmatch(r"(in_proj|out_proj)(\.conv)?", name):
        return f"{match[1]}.convs.0"
    match = re.fullmatch(r"(stages\.\w+|stage)\.(?:blocks\.)?(\d+)\.(.+)", name)
    if match is None or match[1] not in stages or int(match[2]) >= len(stages[match[1]].blocks):
        return None
    stage, index, layer = match.groups()
    block = stages[stage].blocks[int(index)]
    assert isinstance(block, Block)
    return _in_block(block.block_type, f"{stage}.blocks.{index}", layer)


def _in_block(block_type: BlockType, prefix: str, name: str) -> str | None:
    names = next(names for family, names in _LAYERS if isinstance(block_type, family))
    theirs = next((layer for layer in names if f"{name}.".startswith(f"{layer}.")), None)
    if theirs is None:
        return None
    place, inner = f"{prefix}.layers.{names[theirs]}", name[len(theirs) + 1 :]
    if inner == "norm":
        return f"{place}.norm"
    match = re.fullmatch(r"(?:conv|dwconv(?:\.(?:dwconv)?(\d))?)?", inner)
    return None if match is None else f"{place}.convs.{match[1] or 0}"


def _efficientnet_names(model: nn.Module) -> dict[str, str]:
    """Names of the package `efficientnet_pytorch` → those of timm's EfficientNet."""
    if not all(hasattr(model, part) for part in ("conv_stem", "blocks", "conv_head", "classifier")):
        raise CheckpointError(f"a {type(model).__name__} takes no released checkpoint; only timm's EfficientNet does")
    names = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    stages = model.get_submodule("blocks").named_children()
    places = [(f"blocks.{s}.{b}", block) for s, stage in stages for b, block in stage.named_children()]
    for index, (place, block) in enumerate(places):
        layers = ["conv_dw", "bn1", "conv_pw", "bn2"]
        if hasattr(block, "conv_pwl"):
            names |= {f"_blocks.{index}._expand_conv": f"{place}.conv_pw", f"_blocks.{index}._bn0": f"{place}.bn1"}
            layers = ["conv_dw", "bn2", "conv_pwl", "bn3"]
        theirs = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2", "_se_reduce", "_se_expand"]
        ours = [*layers, "se.conv_reduce", "se.conv_expand"]
        names |= {f"_blocks.{index}.{t}": f"{place}.{o}" for t, o in zip(theirs, ours, strict=True)}
    return names
