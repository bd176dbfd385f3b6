"""Finds numbers that are none: tensors of a network, and layers on the way to logits, that are nan or infinite."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from spaceevo.errors import CheckpointError, DataError


def not_finite(state: Mapping[str, Tensor]) -> str:
    """Name the first tensor that holds nan, infinity or an impossible variance or scale, and in how many places."""
    for name, value in state.items():
        faults: dict[str, Tensor] = {}
        if value.is_floating_point():
            faults["nan or infinite"] = ~value.isfinite()
        if name.endswith("running_var"):
            faults["negative"] = value < 0
        if name.endswith(".last_scale"):
            faults["not above 0"] = value <= 0
        for told, wrong in faults.items():
            if wrong.any():
                return f"{name} is {told} in {int(wrong.sum())} of {value.numel()} places"
    return ""


def check_weights(state: Mapping[str, Tensor], what: str) -> None:
    """Raise a `CheckpointError` that names the first tensor of a network that is not finite; `what` is the network."""
    if fault := not_finite(state):
        raise CheckpointError(f"{what}: {fault}; it has diverged: train it again, with a lower learning rate")


@torch.no_grad()
def check_logits(network: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Let a network's logits `(N, classes)` of images `(N, C, H, W)` pass where all are numbers.

    Raises:
        DataError: the images already are not.
        CheckpointError: the network makes nan or infinity of them; names its file and the layer that does so first.
    """
    if logits.isfinite().all():
        return
    wrong = int((~logits.isfinite()).any(1).sum())
    if not images.isfinite().all():
        raise DataError(f"{wrong} of {len(images)} images are nan or infinite in places; replace or remove them")
    raise CheckpointError(
        f"{origin_of(network)}the logits of {wrong} of {len(images)} images are nan or infinite; the first layer that "
        f"makes them so is {_first_layer(network, images)}; train the network again, with a lower learning rate"
    )


def origin_of(network: nn.Module) -> str:
    """Tell the file of a network's weights for the beginning of a message; empty where it is of none."""
    origin = getattr(network, "origin", "")
    return f"{origin}: " if origin else ""


def _first_layer(network: nn.Module, images: Tensor) -> str:
    found: list[str] = []

    def note(name: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and not output.isfinite().all():
            found.append(name)

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            hooks.callback(module.register_forward_hook(partial(note, name)).remove)
        network(images)
    return next(iter(found), "") or type(network).__name__
