"""Switch the quantisers of a module tree on and off, and give a library model quantisers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from spaceevo.quant.quantizer import PUBLISHED, Quantizer, Scheme


def quantizers(module: nn.Module) -> dict[str, Quantizer]:
    """All quantisers below `module` by name."""
    return {name: child for name, child in module.named_modules() if isinstance(child, Quantizer)}


def set_quant(module: nn.Module, on: bool) -> None:
    """Switch every quantiser below `module` on (INT8) or off (fp32)."""
    for quantizer in quantizers(module).values():
        quantizer.turn(on)


def float_state(state: dict[str, Any]) -> dict[str, Any]:
    """The part of a state dict that no quantiser owns: what INT8 training takes over from fp32."""
    return {key: value for key, value in state.items() if not _is_quantizer_key(key)}


def _is_quantizer_key(key: str) -> bool:
    return "_quantizer." in key or ".parametrizations.weight.0." in key


def _quantize_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    quantizer = module.get_submodule("input_quantizer")
    return (quantizer(inputs[0]), *inputs[1:])


def prepare(model: nn.Module, scheme: Scheme = PUBLISHED) -> nn.Module:
    """Give every convolution and linear layer of a library model quantisers on its input and weight, in place.

    They start off; `set_quant(model, True)` switches them on.
    """
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.add_module("input_quantizer", scheme.input_quantizer())
            module.register_forward_pre_hook(_quantize_input)
            parametrize.register_parametrization(module, "weight", scheme.weight_quantizer())
    return model
