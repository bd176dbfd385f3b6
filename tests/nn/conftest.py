"""A small superspace of every searchable block type, and networks in it as training leaves them."""

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import set_quant
from spaceevo.space.blocks import block_types
from spaceevo.space.description import parse_description, parse_space
from spaceevo.space.spec import Activation
from spaceevo.space.superspace import SpaceMember, Superspace

SEARCHED = sorted(name for name, kind in block_types().items() if not kind.is_head and name != "FirstConv")
COVERED = ("FusedMBConvRes", "MobileNetV2", "MobileNetV3", "MobileNetV3Res", "ResNet")
"""Types of which another has all layers and some more; whole networks of them are for `-m slow`."""
TYPES = [pytest.param(name, marks=pytest.mark.slow if name in COVERED else ()) for name in SEARCHED]
ACTS: dict[str, Activation] = {
    "MobileNetV1": "relu",
    "MobileNetV1Dual": "relu",
    "ResNet": "relu",
    "MobileNetV2Res": "relu6",
    "MobileNetV3Res": "hswish",
}
Make = Callable[..., Supernet]
Images = Callable[[int, int], Tensor]


def pictures(count: int, hw: int) -> Tensor:
    """Images `(N, 3, H, W)` that differ in brightness and contrast, as photographs do."""
    contrast, brightness = torch.rand(count, 1, 1, 1) * 1.5, torch.randn(count, 3, 1, 1)
    return torch.randn(count, 3, hw, hw) * contrast + brightness


def candidate(name: str) -> dict[str, object]:
    fields: dict[str, object] = {"type": name, "kernels": [3, 5, 7], "act": ACTS.get(name, "swish")}
    return {**fields, "expands": [1, 2, 3]} if block_types()[name].has_expand else fields


@pytest.fixture(scope="session")
def zoo() -> Superspace:
    """Three searched stages, two windows each, images of 16 and 24 pixels, 7 classes."""

    def fixed(kind: str, act: str = "relu", **fields: object) -> dict[str, object]:
        return {"block": {"type": kind, "act": act, **fields}}

    return parse_description(
        {
            "name": "zoo",
            "resolutions": {"block": [16, 24], "supernet": [16, 24]},
            "candidates": [candidate(name) for name in SEARCHED],
            "stages": {
                "first_conv": {"stride": 2, "widths": [8, 16], **fixed("FirstConv", kernels=[3])},
                "stage0": {"widths": [8, 16], "depths": [1, 2], **fixed("MobileNetV2", kernels=[3], expands=[1])},
                "stage1": {"stride": 2, "widths": [16, 24, 32], "window": 2, "depths": [1, 2, 3]},
                "stage2": {"widths": [24, 32, 40], "window": 2, "depths": [1, 2]},
                "stage3": {"stride": 2, "widths": [32, 40, 48], "window": 2, "depths": [1, 2]},
                "final_expand": {"widths": [64], **fixed("FinalExpand", "hswish")},
                "feature_mix": {"widths": [80], **fixed("FeatureMix", "hswish")},
                "logits": {"widths": [7], **fixed("Logits", "none")},
            },
        },
        source="zoo",
    )


@pytest.fixture(scope="session")
def images() -> Images:
    return pictures


@pytest.fixture(scope="session")
def grown(randomize: Callable[[nn.Module], nn.Module]) -> Make:
    """A supernet in eval mode: gains of both signs, statistics of images, quantisers that have seen several subnets."""

    @cache
    @torch.no_grad()
    def build(member: SpaceMember, quant: str, int8: bool, resolution: int | None) -> Supernet:
        torch.manual_seed(0)
        supernet = Supernet(member, quant)
        randomize(supernet)
        seen = (member.smallest,) if resolution else (member.smallest, member.largest)
        for on in (False, True)[: 1 + int8]:
            set_quant(supernet, on)
            for spec in seen:
                supernet.activate(spec)
                supernet.resolution = resolution or spec.resolution
                recalibrate(supernet, [pictures(16, supernet.resolution)], supernet)
        return supernet

    def make(member: SpaceMember, quant: str = "deploy", int8: bool = True, resolution: int | None = None) -> Supernet:
        """With `resolution`, for large spaces: the smallest subnet alone, at that resolution."""
        supernet = build(member, quant, int8, resolution)
        return supernet if resolution else copy.deepcopy(supernet)

    return make


def member_of(zoo: Superspace, name: str) -> SpaceMember:
    """A space by its encoding, or the zoo's space of one block type."""
    if name.startswith("digits"):
        return parse_space(name)
    return zoo.member((SEARCHED.index(name),) * 3, (1, 0, 1))
