"""Activations, in floating point and as integer runtimes compute them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaceevo.errors import ExportError
from spaceevo.quant.convert import LayerQuant
from spaceevo.quant.program import TensorQuant
from spaceevo.quant.quantizer import GATE_SCALE, RELU6_SCALE, ActivationQuantizer, Scheme
from spaceevo.space.spec import Activation

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": partial(functional.relu, inplace=True),
    "relu6": partial(functional.relu6, inplace=True),
    "hswish": functional.hardswish,
    "swish": functional.silu,
    "hsigmoid": lambda x: functional.relu6(x + 3) / 6,
}


def activate(x: Tensor, act: Activation) -> Tensor:
    """Apply an activation in floating point; to a tensor of its own, for relu and relu6 are done in place."""
    return _ACTIVATIONS[act](x)


def tensor_quant(quantizer: ActivationQuantizer | None) -> TensorQuant:
    """Read scale and zero point of a quantiser's tensor."""
    if quantizer is None:
        raise ExportError(
            "a network under quant=published leaves tensors in float; train it under quant=deploy to deploy it"
        )
    return TensorQuant(*quantizer.scale_and_zero_point())


class QuantizedActivation(nn.Module):
    """Applies an activation and, where the scheme quantises every tensor, the quantisers before and after it.

    With quantisers on, hswish is x·q(relu6(x + 3)/6) and swish x·q(sigmoid(x)), both gates on the grid 1/256: what
    integer runtimes compute.
    """

    def __init__(self, act: Activation, scheme: Scheme) -> None:
        super().__init__()
        self.act = act
        self.output_quantizer = scheme.tensor_quantizer(act)
        gated = act in ("hswish", "swish")
        self.input_quantizer = scheme.tensor_quantizer() if gated else None
        self.gate_quantizer = scheme.fixed_quantizer(RELU6_SCALE if act == "hswish" else GATE_SCALE) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        """Activate `x`, any shape."""
        gate_quantizer = self.gate_quantizer
        if gate_quantizer is None or not gate_quantizer.is_on or self.input_quantizer is None:
            x = activate(x, self.act)
        else:
            x = self.input_quantizer(x)
            if self.act == "hswish":
                x = x * (gate_quantizer(functional.relu6(x + 3)) / 6)
            else:
                x = x * gate_quantizer(torch.sigmoid(x))
        return x if self.output_quantizer is None else self.output_quantizer(x)

    def layer_quant(self) -> LayerQuant:
        """Give the quantisation of the result and, for gated activations, of their input."""
        before = None if self.input_quantizer is None else tensor_quant(self.input_quantizer)
        return LayerQuant(tensor_quant(self.output_quantizer), before_act=before)
