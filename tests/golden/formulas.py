"""The published system's arithmetic written down again, in plain torch and Python, from its description alone.

Nothing here imports the package: golden values are checked against this before they are compared with the file.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

State = Mapping[str, Tensor]


def wave(*shape: int, phase: float = 0.0, size: float = 1.0) -> Tensor:
    """Numbers between ±`size` that look random and are the same on every machine and in every version of torch."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return (size * torch.sin(steps * 12.9898 + steps.square() * 0.0078233 + phase)).float().reshape(shape)


def round_to_eight(value: float) -> int:
    """Nearest multiple of 8, ties upwards, at least 8."""
    return max(8, int(value + 4) // 8 * 8)


def activated(x: Tensor, act: str) -> Tensor:
    """An activation by its formula."""
    gate = (x + 3).clamp(0, 6) / 6
    forms = {
        "none": x,
        "relu": x.clamp(min=0),
        "relu6": x.clamp(0, 6),
        "hswish": x * gate,
        "hsigmoid": gate,
        "swish": x * torch.sigmoid(x),
    }
    return forms[act]


def on_grid(x: Tensor, scale: Tensor, offset: Tensor | float, low: int, high: int) -> Tensor:
    """LSQ+: `round(clip((x − offset)/scale, low, high))·scale + offset`."""
    return ((x - offset) / scale).clamp(low, high).round() * scale + offset


def lsq_gradients(
    x: Tensor, upstream: Tensor, scale: float, offset: float, low: int, high: int
) -> tuple[list[float], float, float]:
    """Straight-through gradients of the input, scale and offset, element by element, before their scaling."""
    of_x: list[float] = []
    of_scale = of_offset = 0.0
    for value, above in zip(x.double().flatten().tolist(), upstream.double().flatten().tolist(), strict=True):
        ratio = (value - offset) / scale
        inside = low < ratio < high
        of_x.append(above if inside else 0.0)
        of_scale += above * (round(ratio) - ratio if inside else min(max(ratio, low), high))
        of_offset += 0.0 if inside else above
    return of_x, of_scale, of_offset


def alpha_divergence(student: Tensor, teacher: Tensor) -> float:
    """Adaptive alpha-divergence of AlphaNet, image by image; the weights ρ are those of the larger divergence."""
    losses = []
    for q_logits, p_logits in zip(student.double(), teacher.double(), strict=True):
        q, p = torch.softmax(q_logits, 0).tolist(), torch.softmax(p_logits, 0).tolist()
        clipped = [min(a / b, 5.0) for a, b in zip(q, p, strict=True)]
        minus = sum(a * (c - 1) for a, c in zip(q, clipped, strict=True)) / 2
        plus = sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
        weights = [0.5 - c for c in clipped] if minus > plus else [b / a for a, b in zip(q, p, strict=True)]
        losses.append(-sum(a * w * math.log(a) for a, w in zip(q, weights, strict=True)))
    return sum(losses) / len(losses)


def noise_to_signal(student: Tensor, teacher: Tensor, divisor: Tensor) -> float:
    """Squared error over the unbiased variance of `divisor`, per image and channel, then the mean."""
    error = (student.double() - teacher.double()).square().mean((2, 3))
    spread = divisor.double() - divisor.double().mean((2, 3), keepdim=True)
    points = divisor.shape[2] * divisor.shape[3]
    return float((error / (spread.square().sum((2, 3)) / (points - 1))).mean())


@dataclass
class PlainBlocks:
    """Runs blocks of any type on the tensors of a network, by the description of each type; counts as it goes.

    Attributes:
        state: the tensors, by the names of `state_dict`.
        int8: whether inputs and weights of convolutions are quantised (the published scheme).
        macs: multiply-accumulates of the convolutions for one image.
        used: names of the tensors that were read.
    """

    state: State
    int8: bool = False
    macs: int = 0
    used: set[str] = field(default_factory=set)

    def take(self, name: str) -> Tensor:
        """A tensor of the network."""
        self.used.add(name)
        return self.state[name]

    def layer(
        self, name: str, x: Tensor, stride: int = 1, act: str = "none", index: int = 0, normed: bool = True
    ) -> Tensor:
        """A convolution with bias or batch norm, then an activation; depthwise where its weight is one channel deep."""
        conv = f"{name}.convs.{index}"
        weight = self.take(f"{conv}.weight")
        groups = x.shape[1] if weight.shape[1] == 1 and x.shape[1] > 1 else 1
        if self.int8:
            scale, offset = self.take(f"{conv}.input_quantizer.scale"), self.take(f"{conv}.input_quantizer.offset")
            x = on_grid(x, scale, offset, 0, 255)
            weight = on_grid(weight, self.take(f"{conv}.weight_quantizer.scale"), 0.0, -128, 127)
        bias = self.take(f"{conv}.bias") if f"{conv}.bias" in self.state else None
        y = functional.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, groups=groups)
        self.macs += weight.numel() * y.shape[2] * y.shape[3]
        if normed and bias is None:
            mean, variance, gain, shift = (
                self.take(f"{name}.norm.{part}").view(1, -1, 1, 1)
                for part in ("running_mean", "running_var", "weight", "bias")
            )
            y = (y - mean) / torch.sqrt(variance + 1e-5) * gain + shift
        return activated(y, act)

    def stack(self, name: str, x: Tensor, stride: int, act: str, depth: int) -> Tensor:
        """3×3 depthwise convolutions in a row, the stride in the first; batch norm and activation after the last."""
        for index in range(depth - 1):
            x = self.layer(name, x, stride if index == 0 else 1, index=index, normed=False)
        return self.layer(name, x, stride if depth == 1 else 1, act, index=depth - 1)

    def gated(self, name: str, x: Tensor) -> Tensor:
        """Squeeze-and-excitation."""
        gate = self.layer(f"{name}.se_reduce", x.mean((2, 3), keepdim=True), act="relu")
        return x * self.layer(f"{name}.se_expand", gate, act="hsigmoid")

    def shortcut(self, name: str, x: Tensor, y: Tensor, stride: int, projects: bool = True) -> Tensor:
        """The sum with the input: as it is where it fits, else through a 1×1 convolution if the type has one."""
        if stride == 1 and x.shape[1] == y.shape[1]:
            return x + y
        return self.layer(f"{name}.shortcut", x, stride) + y if projects else y

    def block(self, name: str, kind: str, x: Tensor, kernel: int, stride: int, act: str) -> Tensor:
        """A block of any type, its layers below `name`.layers."""
        layers = f"{name}.layers"
        if kind == "Logits":
            return self.layer(f"{layers}.linear", x.reshape(len(x), -1, 1, 1)).flatten(1)
        if kind in ("FirstConv", "FinalExpand", "FeatureMix"):
            x = x.mean((2, 3), keepdim=True) if kind == "FeatureMix" else x
            return self.layer(f"{layers}.conv", x, stride, act)
        if kind == "MobileNetV1":
            return self.layer(f"{layers}.pointwise", self.layer(f"{layers}.depthwise", x, stride, act), 1, act)
        if kind == "MobileNetV1Dual":
            y = self.layer(f"{layers}.pointwise1", self.layer(f"{layers}.depthwise1", x, stride, act), 1, act)
            y = self.layer(f"{layers}.pointwise2", self.layer(f"{layers}.depthwise2", y, 1, act), 1, act)
            return self.shortcut(layers, x, y, stride)
        if kind.startswith("ResNet"):
            y = self.layer(f"{layers}.conv", self.layer(f"{layers}.reduce", x, 1, act), stride, act)
            y = self.gated(layers, y) if kind.endswith("SE") else y
            return activated(self.shortcut(layers, x, self.layer(f"{layers}.project", y), stride), act)
        if kind.startswith("FusedMBConv"):
            y = self.layer(f"{layers}.conv", x, stride, act)
            y = self.gated(layers, y) if "SE" in kind else y
            return self.shortcut(layers, x, self.layer(f"{layers}.project", y), stride)
        expand = f"{layers}.expand"
        y = self.layer(expand, x, 1, act) if f"{expand}.convs.0.weight" in self.state else x
        depth = kernel // 2 if "K3" in kind else 1
        y = self.stack(f"{layers}.depthwise", y, stride, act, depth)
        y = self.gated(layers, y) if "V3" in kind else y
        return self.shortcut(layers, x, self.layer(f"{layers}.project", y), stride, kind.endswith("Res"))


def block_key(kind: str, hw: int, cin: int, cout: int, kernel: int, expand: float | None, stride: int, act: str) -> str:
    """Key of a block in a latency table."""
    if kind == "Logits":
        return f"LogitsBlock_1_{cin}_{cout}_0_None_0_relu"
    whole = expand is not None and expand == int(expand) and not kind.startswith("ResNet")
    ratio = "0" if kind == "MobileNetV1Dual" else str(int(expand)) if whole and expand is not None else str(expand)
    return f"{kind}Block_{hw}_{cin}_{cout}_{kernel}_{ratio}_{stride}_{act}"


def sums_of(stages: list[list[tuple[float, float]]]) -> Iterator[tuple[float, float]]:
    """Losses and latencies of every subnet that takes one row of each stage."""
    if not stages:
        yield 0.0, 0.0
        return
    for loss, latency in stages[0]:
        for more_loss, more_latency in sums_of(stages[1:]):
            yield loss + more_loss, latency + more_latency
