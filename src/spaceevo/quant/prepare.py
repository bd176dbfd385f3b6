"""Switch the quantisers of a module tree on and off, and give a library model quantisers."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from spaceevo.quant.quantizer import PUBLISHED, Quantizer, Scheme

Pad = Callable[[Tensor], Tensor]


def quantizers(module: nn.Module) -> dict[str, Quantizer]:
    """List all quantisers below `module` by name."""
    return {name: child for name, child in module.named_modules() if isinstance(child, Quantizer)}


def set_quant(module: nn.Module, on: bool) -> None:
    """Switch every quantiser below `module` on (INT8) or off (fp32)."""
    for quantizer in quantizers(module).values():
        quantizer.turn(on)


def float_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the part of a state dict that no quantiser owns: what INT8 training takes over from fp32."""
    owned = ("_quantizer.", "parametrizations.weight.0.")
    return {key: value for key, value in state.items() if not any(name in key for name in owned)}


def prepare(model: nn.Module, scheme: Scheme = PUBLISHED) -> nn.Module:
    """Give every convolution and linear layer of a library model quantisers on its input and weight, in place.

    They start off; `set_quant(model, True)` switches them on. A convolution's input is padded before it is
    quantised, as the published teacher's is: real offsets move the padding's zeros onto the grid.
    """
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            pad = _take_padding(module) if isinstance(module, nn.Conv2d) else nn.Identity()
            module.add_module("input_quantizer", scheme.input_quantizer())
            module.register_forward_pre_hook(partial(_quantize_input, pad))
            parametrize.register_parametrization(module, "weight", scheme.weight_quantizer())
    return model


def _quantize_input(pad: Pad, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (module.get_submodule("input_quantizer")(pad(inputs[0])), *inputs[1:])


def _take_padding(conv: nn.Conv2d) -> Pad:
    """Relieve a convolution of its padding with zeros; what it would have done is returned."""
    if type(conv).__name__ == "Conv2dSame":  # timm's, which takes seconds to import
        conv.__class__ = nn.Conv2d  # the same layer, its forward without padding
        return partial(_pad_same, conv.kernel_size, conv.stride, conv.dilation)
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros" or not any(conv.padding):
        return nn.Identity()
    height, width = conv.padding
    conv.padding = (0, 0)
    return partial(functional.pad, pad=(width, width, height, height))


def _pad_same(kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], x: Tensor) -> Tensor:
    """Pad as TensorFlow does: output size ⌈input / stride⌉, the odd pixel at the right and the bottom."""
    pads: list[int] = []
    for axis in (1, 0):
        size = x.shape[2 + axis]
        total = max(0, (-(-size // stride[axis]) - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1 - size)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads)
