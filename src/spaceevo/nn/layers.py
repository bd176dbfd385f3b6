"""Elastic leaves: each holds the largest tensors, of which it uses the slice that `active` says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaceevo.nn.activation import QuantizedActivation, tensor_quant
from spaceevo.nn.depthwise import depthwise_conv2d
from spaceevo.quant.convert import FoldedConv, LayerQuant, bias_grid, fold_norm, weight_grid
from spaceevo.quant.quantizer import ActivationQuantizer, Scheme
from spaceevo.space.spec import Layer

BN_EPS = 1e-5
BN_MOMENTUM = 0.1


class ElasticLayer(nn.Module):
    """Computes a layer of a recipe: `layer` is what its tensors hold, `active` the slice that it uses."""

    def __init__(self, layer: Layer, scheme: Scheme) -> None:
        super().__init__()
        self.layer = self.active = layer
        self.scheme = scheme
        self.activation = QuantizedActivation(layer.act, scheme)
        self._source: tuple[ActivationQuantizer, ...] = ()  # in a tuple, for it is no part of this layer

    def read_from(self, source: ActivationQuantizer | None) -> ActivationQuantizer | None:
        """Take note of the quantiser of the tensor that this layer reads; return that of its result."""
        self._source = () if source is None else (source,)
        return self.activation.output_quantizer

    def narrow(self, layer: Layer) -> ElasticLayer:
        """Make a layer of its own that holds the slice `layer` of this one's tensors."""
        narrowed = type(self)(layer, self.scheme)
        source = self.state_dict()
        narrowed.load_state_dict({k: _slice(source[k], tuple(v.shape)) for k, v in narrowed.state_dict().items()})
        return narrowed

    def layer_quant(self) -> LayerQuant:
        """Give the numbers of the quantised layer as it is active."""
        return self.activation.layer_quant()


def _slice(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The first channels of a tensor; of a weight `(Cout, Cin, K, K)` also the centre of the kernel."""
    if tuple(tensor.shape) == shape:
        return tensor
    channels = tensor[tuple(slice(size) for size in shape[:2])]
    if len(shape) < 4:
        return channels
    margin = (tensor.shape[2] - shape[2]) // 2
    return channels[:, :, margin : margin + shape[2], margin : margin + shape[2]]


_PLAIN: dict[str, Callable[..., Tensor]] = {
    "pool": partial(torch.mean, dim=(2, 3), keepdim=True),
    "add": torch.add,
    "mul": torch.mul,
}


class PlainLayer(ElasticLayer):
    """Takes the mean over height and width, adds two tensors, or multiplies a tensor by a gate per channel."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Turn `(N, C, H, W)` into `(N, C, 1, 1)`, or join two tensors, of which a gate is `(N, C, 1, 1)`."""
        y: Tensor = self.activation(_PLAIN[self.layer.kind](*inputs))
        return y


SAFE_CHANNELS = 8
"""With fewer input channels, channels last, oneDNN's gradient of a strided 1×1 convolution writes beside its memory on
processors that have AVX2 and no more (torch 2.13). Of every other pixel, without a stride, it is right."""


class ElasticConv(nn.Module):
    """Convolves without norm; holds the weight, its quantiser and, where the scheme has one there, the input's."""

    def __init__(self, layer: Layer, scheme: Scheme, bias: bool) -> None:
        super().__init__()
        reference = nn.Conv2d(layer.weight_shape[1], layer.cout, layer.kernel, bias=bias)
        self.weight = reference.weight
        self.bias = reference.bias
        self.weight_quantizer = scheme.weight_quantizer()
        self.input_quantizer = scheme.input_quantizer()

    def forward(self, x: Tensor, layer: Layer) -> Tensor:
        """Convolve with the slice `layer`; padded by half the kernel, after quantisation."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        weight = self.weight_quantizer(_slice(self.weight, layer.weight_shape))
        bias = None if self.bias is None else self.bias[: layer.cout]
        if layer.kind == "linear":
            return functional.linear(x.flatten(1), weight.flatten(1), bias)
        if layer.kind == "depthwise" and bias is None:
            return depthwise_conv2d(x, weight, layer.stride)
        groups = layer.cin if layer.kind == "depthwise" else 1
        stride = layer.stride
        if layer.kernel == 1 and layer.cin < SAFE_CHANNELS and stride > 1:
            x, stride = x[..., ::stride, ::stride], 1
        return functional.conv2d(x, weight, bias, stride, layer.kernel // 2, groups=groups)

    def fold(self, layer: Layer, gain: Tensor | None, shift: Tensor | None) -> FoldedConv:
        """Compute the integer weights of the slice with norm or bias folded in."""
        weight = self.weight_quantizer.integers(_slice(self.weight, layer.weight_shape)).double()
        if gain is None:
            gain = torch.ones(layer.cout)
        if shift is None:
            shift = torch.zeros(layer.cout) if self.bias is None else self.bias[: layer.cout]
        scale = abs(float(self.weight_quantizer.scale))
        weight, gain, shift = (values.double().cpu() for values in (weight, gain, shift))
        limit = self.weight_quantizer.config.limit
        return fold_norm(weight.numpy(), scale, gain.numpy(), shift.numpy(), limit)


class ConvLayer(ElasticLayer):
    """Runs one convolution, or a stack of them, then batch norm (or a bias) and an activation."""

    def __init__(self, layer: Layer, scheme: Scheme) -> None:
        super().__init__(layer, scheme)
        bias = not layer.norm
        self.convs = nn.ModuleList(ElasticConv(layer, scheme, bias) for _ in range(layer.stack))
        self.between = nn.ModuleList(QuantizedActivation("none", scheme) for _ in range(layer.stack - 1))
        self.norm = nn.BatchNorm2d(layer.cout, eps=BN_EPS, momentum=BN_MOMENTUM) if layer.norm else None

    @property
    def active_convs(self) -> list[ElasticConv]:
        """The active convolutions, in order."""
        return [conv for conv in self.convs[: self.active.stack] if isinstance(conv, ElasticConv)]

    @property
    def between_quantizers(self) -> list[ActivationQuantizer | None]:
        """The quantisers between the active convolutions."""
        stack = self.between[: self.active.stack - 1]
        return [act.output_quantizer for act in stack if isinstance(act, QuantizedActivation)]

    def forward(self, x: Tensor) -> Tensor:
        """Turn `(N, Cin, H, W)` into `(N, Cout, H/stride, W/stride)`; a linear layer gives `(N, Cout)`."""
        active = self.active
        for index in range(active.stack):
            x = self.convs[index](x, active if index == 0 else replace(active, stride=1))
            if index < active.stack - 1:
                x = self.between[index](x)
        x, rounding = self._normalize(x), self._bias_rounding()
        y: Tensor = self.activation(x if rounding is None else x + rounding.view(1, -1, *[1] * (x.ndim - 2)))
        return y

    @torch.no_grad()
    def _bias_rounding(self) -> Tensor | None:
        """What is added per channel when the folded bias is rounded as in the integer program; None in training.

        With it, a network in eval mode under a deployable scheme computes what is deployed. None too in float, and
        where no network says which tensor the layer reads.
        """
        norm = self.norm
        source = next(iter(self._source), None)
        if source is None or not source.is_on or self.training or (norm is not None and norm.training):
            return None
        source = [source, *self.between_quantizers][-1]
        assert source is not None
        conv = self.active_convs[-1]
        integers = conv.weight_quantizer.integers(_slice(conv.weight, self.active.weight_shape))
        gain, bias = self._gain_and_shift()
        scale = conv.weight_quantizer.scale.double().expand(self.active.cout)
        if gain is not None and bias is not None:
            scale = scale * gain.abs()
        else:
            assert conv.bias is not None
            bias = conv.bias[: self.active.cout].double()
        if self.active.act == "hsigmoid":
            bias = bias + 3  # it is folded into the bias
        input_scale, _ = source.scale_and_zero_point()
        peak, limit = integers.abs().amax((1, 2, 3)), conv.weight_quantizer.config.limit
        grid = bias_grid(weight_grid(peak, scale, bias, input_scale, limit), input_scale)
        return (torch.round(bias / grid) * grid - bias).to(conv.weight.dtype)

    def _normalize(self, x: Tensor) -> Tensor:
        norm = self.norm
        if norm is None:
            return x
        channels = self.active.cout
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        return functional.batch_norm(
            x,
            mean[:channels],
            variance[:channels],
            norm.weight[:channels],
            norm.bias[:channels],
            norm.training,
            norm.momentum or 0.0,
            norm.eps,
        )

    def narrow(self, layer: Layer) -> ElasticLayer:
        """Make a layer of its own, as the base does; the norm keeps its momentum."""
        narrowed = super().narrow(layer)
        if self.norm is not None and isinstance(narrowed, ConvLayer) and narrowed.norm is not None:
            narrowed.norm.momentum = self.norm.momentum
        return narrowed

    @torch.no_grad()
    def layer_quant(self) -> LayerQuant:
        """Give folded integer weights and the quantisation of every tensor, as the layer is active."""
        *first, last = self.active_convs
        convs = [conv.fold(self.active, None, None) for conv in first]
        convs.append(last.fold(self.active, *self._gain_and_shift()))
        between = tuple(map(tensor_quant, self.between_quantizers))
        return replace(self.activation.layer_quant(), convs=tuple(convs), between=between)

    def _gain_and_shift(self) -> tuple[Tensor | None, Tensor | None]:
        """Batch norm in eval mode as `gain·x + shift` per channel, in double precision."""
        norm, channels = self.norm, self.active.cout
        if norm is None or norm.running_mean is None or norm.running_var is None:
            return None, None
        gain = norm.weight[:channels].double() / torch.sqrt(norm.running_var[:channels].double() + norm.eps)
        return gain, norm.bias[:channels].double() - norm.running_mean[:channels].double() * gain


def make_layer(layer: Layer, scheme: Scheme) -> ElasticLayer:
    """Make the leaf of a layer's kind."""
    return ConvLayer(layer, scheme) if layer.has_weight else PlainLayer(layer, scheme)
