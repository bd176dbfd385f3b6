"""Batch-norm recalibration: a subnet's own statistics, from a few groups of images."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from spaceevo.collectives.averaging import average_, world
from spaceevo.errors import DataError
from spaceevo.nn.finite import check_weights, not_finite, origin_of

IMAGES_A_PASS = 64  # Images of a forward pass


def even_groups(batches: Sequence[Tensor], size: int = IMAGES_A_PASS) -> Iterator[Tensor]:
    """Cut the images `(N, …)` of all batches anew, into groups of about `size`, as even as can be.

    The groups depend on the images and their order alone, not on the batches that they come in.
    """
    total, given = sum(map(len, batches)), iter(batches)
    count = max(1, round(total / size))
    waiting: list[Tensor] = []
    for group in range(count):
        need = total * (group + 1) // count - total * group // count
        while sum(map(len, waiting)) < need:
            waiting.append(next(given))
        images = waiting[0] if len(waiting) == 1 else torch.cat(waiting)
        yield images[:need]
        waiting = [images[need:]] if need < len(images) else []


@torch.no_grad()
def recalibrate(module: nn.Module, batches: Sequence[Tensor], forward: Callable[[Tensor], object]) -> None:
    """Replace the running statistics of the active layers by the mean over the images of `batches`.

    Statistics are taken of groups of `even_groups`, however the images come, and every image counts alike: means and
    unbiased variances of a group are weighed by its images. In a distributed run, where all get the same images, each
    process takes its share of the groups, and the statistics are averaged over all. The module is left in eval mode.
    Subnets share their norms: recalibrate again after activating another. `module` may hold several networks, all of
    which `forward` runs on one group.

    Raises:
        DataError: images are nan or infinite.
        CheckpointError: statistics are nan or infinite; names the first.
    """
    norms = {name: child for name, child in module.named_modules() if isinstance(child, nn.BatchNorm2d)}
    momenta = [norm.momentum for norm in norms.values()]
    module.eval()
    for norm in norms.values():
        norm.train()
    seen, (rank, size) = 0, world()
    try:
        for images in islice(even_groups(batches), rank, None, size):
            seen += len(images)
            for norm in norms.values():
                norm.momentum = len(images) / seen
            forward(images)
        if not seen:  # a process without a share looks on: quantisers that start now start in all processes together
            forward(next(even_groups(batches)))
    finally:
        for norm, momentum in zip(norms.values(), momenta, strict=True):
            norm.momentum = momentum
        module.eval()
    statistics = {
        f"{name}.{which}": getattr(norm, which)
        for name, norm in norms.items()
        for which in ("running_mean", "running_var")
    }
    average_(list(statistics.values()), weight=seen)
    if not_finite(statistics) and not all(bool(images.isfinite().all()) for images in batches):
        raise DataError("images of a calibration are nan or infinite in places; replace or remove them")
    check_weights(statistics, f"{origin_of(module)}recalibrated batch norm")
