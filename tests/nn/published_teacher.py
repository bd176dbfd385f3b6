"""The published teacher: EfficientNet-B5 as the package `efficientnet_pytorch` writes it, here from its description."""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from spaceevo.quant.lsq import lsq_plus_activation, lsq_plus_weight

State = dict[str, Tensor]


class TeacherBlock(NamedTuple):
    kernel: int
    stride: int
    expand: int
    cin: int
    cout: int


def pad_quantize_conv(state: State, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    pads = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + weight.shape[2] - size, 0)
        pads += [total // 2, total - total // 2]
    x = lsq_plus_activation(functional.pad(x, pads), state[f"{name}.sa"], state[f"{name}.beta"])
    weight = lsq_plus_weight(weight, state[f"{name}.sw"])
    return functional.conv2d(x, weight, state.get(f"{name}.bias"), stride, groups=groups)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return functional.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-3)


def reference_teacher(state: State, blocks: list[TeacherBlock], x: Tensor) -> Tensor:
    x = functional.silu(norm(state, "_bn0", pad_quantize_conv(state, "_conv_stem", x, 2)))
    for index, block in enumerate(blocks):
        name, y = f"_blocks.{index}", x
        if block.expand > 1:
            y = functional.silu(norm(state, f"{name}._bn0", pad_quantize_conv(state, f"{name}._expand_conv", y)))
        y = pad_quantize_conv(state, f"{name}._depthwise_conv", y, block.stride, groups=y.shape[1])
        y = functional.silu(norm(state, f"{name}._bn1", y))
        gate = functional.silu(pad_quantize_conv(state, f"{name}._se_reduce", y.mean((2, 3), keepdim=True)))
        y = y * torch.sigmoid(pad_quantize_conv(state, f"{name}._se_expand", gate))
        y = norm(state, f"{name}._bn2", pad_quantize_conv(state, f"{name}._project_conv", y))
        x = x + y if block.stride == 1 and block.cin == block.cout else y
    x = functional.silu(norm(state, "_bn1", pad_quantize_conv(state, "_conv_head", x)))
    x = lsq_plus_activation(x.mean((2, 3)), state["_fc.sa"], state["_fc.beta"])
    return functional.linear(x, lsq_plus_weight(state["_fc.weight"], state["_fc.sw"]), state["_fc.bias"])


def teacher_state(stem: int, blocks: list[TeacherBlock], head: int, classes: int) -> State:
    """Tensors by the package's names; every convolution's scalars set so that clipping and offsets show."""
    state: State = OrderedDict()

    def conv(name: str, *shape: int, bias: bool = False) -> None:
        state[f"{name}.weight"] = torch.randn(shape) / max(1, shape[1]) ** 0.5
        if bias:
            state[f"{name}.bias"] = torch.randn(shape[0]) / 10
        state[f"{name}.sw"], state[f"{name}.sa"] = torch.tensor([0.02]), torch.tensor([0.03])
        state[f"{name}.beta"] = torch.tensor([-0.5])

    def bn(name: str, channels: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.rand(channels) + 0.5, torch.randn(channels) / 5
        state[f"{name}.running_mean"], state[f"{name}.running_var"] = torch.randn(channels), torch.rand(channels) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(1)

    conv("_conv_stem", stem, 3, 3, 3)
    bn("_bn0", stem)
    for index, block in enumerate(blocks):
        name, hidden = f"_blocks.{index}", block.cin * block.expand
        if block.expand > 1:
            conv(f"{name}._expand_conv", hidden, block.cin, 1, 1)
            bn(f"{name}._bn0", hidden)
        conv(f"{name}._depthwise_conv", hidden, 1, block.kernel, block.kernel)
        bn(f"{name}._bn1", hidden)
        squeezed = max(1, block.cin // 4)
        conv(f"{name}._se_reduce", squeezed, hidden, 1, 1, bias=True)
        conv(f"{name}._se_expand", hidden, squeezed, 1, 1, bias=True)
        conv(f"{name}._project_conv", block.cout, hidden, 1, 1)
        bn(f"{name}._bn2", block.cout)
    conv("_conv_head", head, blocks[-1].cout, 1, 1)
    bn("_bn1", head)
    conv("_fc", classes, head, bias=True)
    return state


B5 = [
    *([1, 3, 1, 48, 24, 3], [2, 3, 6, 24, 40, 5], [2, 5, 6, 40, 64, 5], [2, 3, 6, 64, 128, 7]),
    *([1, 5, 6, 128, 176, 7], [2, 5, 6, 176, 304, 9], [1, 3, 6, 304, 512, 3]),
]
"""Stride, kernel, expansion, input and output channels and repeats of the seven block groups (FACTS §5)."""


def b5_blocks() -> list[TeacherBlock]:
    return [
        TeacherBlock(kernel, stride if i == 0 else 1, expand, cin if i == 0 else cout, cout)
        for stride, kernel, expand, cin, cout, repeats in B5
        for i in range(repeats)
    ]
