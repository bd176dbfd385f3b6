"""Quantiser modules and the schemes that say where they stand and how wide weights are."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from spaceevo.collectives.averaging import least_, sum_, world
from spaceevo.errors import ConfigError, choices
from spaceevo.quant.lsq import lsq_plus_activation, lsq_plus_weight
from spaceevo.space.spec import Activation

LEVELS = 255  # Activations are integers 0…255
MIN_SCALE = 1e-7 / 255
GATE_SCALE = 1 / 256  # Scale of every sigmoid and hard-sigmoid output: the one integer runtimes take, with zero point 0
RELU6_SCALE = 6 / 256  # Scale of relu6(x + 3): its integers, read at GATE_SCALE, are relu6(x + 3)/6 exactly

MAX_SCALE_STEP = 1.1
"""Under `deploy` a learned scale changes at most by this factor from one training step to the next.

A scale lies near 0.01 and gradients are clipped at 1, so one bad step can carry it past 0; LSQ+ as published then sets
it to almost nothing and the tensor is dead for good. Steady training stays far within the bound.
"""


@dataclass(frozen=True)
class ActivationConfig:
    """Says how one activation tensor is quantised, to 8 bits."""

    # no real offset; a training step then changes the scale by `MAX_SCALE_STEP` at most
    integer_zero_point: bool = False
    learns_offset: bool = True  # off where the tensor is never negative and integer 0 means 0
    max_value: float | None = None  # greatest value the tensor can take; caps the scale so that the grid ends there
    fixed_scale: float | None = None  # a constant scale with zero point 0 instead of learned values


def weight_limit(bits: int) -> int:
    """Return the greatest signed integer of so many bits."""
    return int(2 ** (bits - 1) - 1)


@dataclass(frozen=True)
class WeightConfig:
    """Says how weights are quantised: symmetric, one scale a tensor."""

    bits: int = 8
    narrow: bool = False  # the lowest integer is left out
    bounds_steps: bool = False  # a training step changes the scale by `MAX_SCALE_STEP` at most

    @property
    def limit(self) -> int:
        """The greatest integer that a weight can become."""
        return weight_limit(self.bits)


class Quantizer(nn.Module):
    """Rounds tensors to a grid once it is switched on; its first forward then sets the scale from what it sees."""

    scale: Tensor
    initialized: Tensor
    last_scale: Tensor

    def __init__(self, fixed_scale: float | None = None, *, bounds_steps: bool = False) -> None:
        super().__init__()
        self.is_on = False
        if fixed_scale is None:
            self.scale = nn.Parameter(torch.ones(()))
        else:
            self.register_buffer("scale", torch.tensor(fixed_scale), persistent=False)
        self.register_buffer("initialized", torch.tensor(fixed_scale is not None))
        self.bounds_steps = bounds_steps and fixed_scale is None
        if self.bounds_steps:
            self.register_buffer("last_scale", torch.ones(()))

    def turn(self, on: bool) -> None:
        """Switch fake quantisation on or off."""
        self.is_on = on

    def forget(self) -> None:
        """Set the scale again at the next forward."""
        self.initialized.fill_(False)

    @torch.no_grad()
    def set_scale(self, scale: Tensor) -> None:
        """Start from this scale; the quantiser counts as initialised."""
        self.scale.copy_(scale.clamp(min=MIN_SCALE))
        if self.bounds_steps:
            if scale == 0:  # zeros say nothing of the range, and from the floor the scale would never get anywhere
                self.scale.fill_(1 / 255)
            self.last_scale.copy_(self.scale)
        self.initialized.fill_(True)

    @torch.no_grad()
    def _settle(self) -> Tensor:
        """The scale, positive and within reach of its last value; the same however often it is asked for."""
        if self.bounds_steps:
            self.scale.clamp_(self.last_scale / MAX_SCALE_STEP, self.last_scale * MAX_SCALE_STEP)
            if self.training:
                self.last_scale.copy_(self.scale)
        else:
            self.scale.clamp_(min=MIN_SCALE)
        return self.scale

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        if self.bounds_steps and f"{prefix}scale" in state_dict:  # files of `published` networks have no last scale
            state_dict.setdefault(f"{prefix}last_scale", state_dict[f"{prefix}scale"])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Show scale and state."""
        return f"scale={self.scale.item():.3g}, {'on' if self.is_on else 'off'}"


class WeightQuantizer(Quantizer):
    """Quantises the active slice of a weight; scale 2·max|w|/(2^bits − 1) at first."""

    def __init__(self, config: WeightConfig) -> None:
        super().__init__(bounds_steps=config.bounds_steps)
        self.config = config

    def forward(self, weight: Tensor) -> Tensor:
        """Fake-quantise `weight`, any shape."""
        if not self.is_on:
            return weight
        config = self.config
        if not self.initialized:
            self.set_scale(2 * weight.detach().abs().max() / (2**config.bits - 1))
        settings = {"narrow": config.narrow, "scale_gradients": self.training}
        return lsq_plus_weight(weight, self._settle(), config.bits, **settings)

    def integers(self, weight: Tensor) -> Tensor:
        """Compute the integers that `weight` is quantised to."""
        most = self.config.limit
        least = -most if self.config.narrow else -most - 1
        return torch.round(weight / self.scale.abs()).clamp(least, most)


class ActivationQuantizer(Quantizer):
    """Quantises an activation tensor; scale and offset span the first tensor it sees."""

    offset: Tensor

    def __init__(self, config: ActivationConfig) -> None:
        super().__init__(config.fixed_scale, bounds_steps=config.integer_zero_point)
        self.config = config
        if config.learns_offset:
            self.offset = nn.Parameter(torch.zeros(()))
        else:
            self.register_buffer("offset", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantise `x`, shape `(N, …)`."""
        if not self.is_on:
            return x
        if not self.initialized:
            self._initialize(x)
        config, scale = self.config, self._effective_scale()
        settings = {"integer_zero_point": config.integer_zero_point, "scale_gradients": self.training}
        return lsq_plus_activation(x, scale, self.offset, **settings)

    def _effective_scale(self) -> Tensor:
        scale, most = self._settle(), self.config.max_value
        return scale if most is None else scale.clamp(max=most / LEVELS)

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        low, high = (x.min(), x.max()) if self.config.learns_offset else (x.new_zeros(()), x.max())
        if self.config.integer_zero_point:
            # Integer runtimes need 0 on the grid.
            low = low.clamp(max=0)
            high = high.clamp(min=0)
        scale = (high - low) / LEVELS
        self.set_scale(sum_(scale) / world()[1])
        if self.config.learns_offset:
            self.offset.copy_(least_(low))

    @torch.no_grad()
    def scale_and_zero_point(self) -> tuple[float, int]:
        """Give scale and integer zero point as a runtime has them; real offsets no integer runtime can express."""
        if not self.config.integer_zero_point:
            raise ConfigError("a network under quant=published has real offsets; integer programs need quant=deploy")
        scale = self._effective_scale()
        zero = torch.round(-self.offset / scale).clamp(0, LEVELS)
        return float(scale), int(zero)


@dataclass(frozen=True)
class Scheme:
    """Says where quantisers stand: on every weight, and on either each convolution's input or every tensor, once."""

    name: Literal["published", "deploy", "reduced_range"]
    weight: WeightConfig
    on_conv_inputs: bool

    def weight_quantizer(self) -> WeightQuantizer:
        """Make the quantiser of a convolution's or linear layer's weight."""
        return WeightQuantizer(self.weight)

    def input_quantizer(self) -> ActivationQuantizer | None:
        """Make the quantiser at a convolution's input, if the scheme has them there."""
        return ActivationQuantizer(ActivationConfig()) if self.on_conv_inputs else None

    def tensor_quantizer(self, act: Activation = "none") -> ActivationQuantizer | None:
        """Make the quantiser of a tensor that activation `act` produced, if the scheme has one on every tensor."""
        if self.on_conv_inputs:
            return None
        if act == "hsigmoid":
            return self.fixed_quantizer(GATE_SCALE)
        signed = act not in ("relu", "relu6")
        most = 6.0 if act == "relu6" else None
        return ActivationQuantizer(ActivationConfig(integer_zero_point=True, learns_offset=signed, max_value=most))

    def fixed_quantizer(self, scale: float) -> ActivationQuantizer | None:
        """Make a quantiser with a constant scale and zero point 0, if the scheme has one on every tensor."""
        if self.on_conv_inputs:
            return None
        return ActivationQuantizer(ActivationConfig(integer_zero_point=True, learns_offset=False, fixed_scale=scale))


PUBLISHED = Scheme("published", WeightConfig(), on_conv_inputs=True)
DEPLOY = Scheme("deploy", WeightConfig(narrow=True, bounds_steps=True), on_conv_inputs=False)
REDUCED_RANGE = Scheme("reduced_range", WeightConfig(bits=7, narrow=True, bounds_steps=True), on_conv_inputs=False)
"""As `DEPLOY`, but weights have 7 bits: two products of such a weight and a uint8 add up to less than 2^15, so that
kernels which add them in 16 bits, as on x86 processors without VNNI, are exact."""
_SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (PUBLISHED, DEPLOY, REDUCED_RANGE)}


def quant_scheme(name: str) -> Scheme:
    """Look a scheme up by name."""
    if name not in _SCHEMES:
        raise ConfigError(f"unknown quantisation scheme '{name}'; allowed: {choices(_SCHEMES)}")
    return _SCHEMES[name]


def is_deployable(name: str) -> bool:
    """Tell whether what trains under the scheme of this name is what an integer runtime executes; `off` is in fp32."""
    return name != "off" and not quant_scheme(name).on_conv_inputs
