"""Top-1 of a network or of one subnet of a supernet."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import sqrt

import torch
from torch import Tensor, nn

from spaceevo.collectives.averaging import sum_
from spaceevo.errors import ConfigError
from spaceevo.nn.calibrate import IMAGES_A_PASS, recalibrate
from spaceevo.nn.finite import check_logits
from spaceevo.nn.memory import images_last
from spaceevo.nn.supernet import Supernet
from spaceevo.space.encoding import SubnetSpec
from spaceevo.terminal import told

Batch = tuple[Tensor, Tensor]


def device_of(network: nn.Module) -> torch.device:
    """Tell where a network computes; a folded one has no parameters, only buffers, and one without weights neither."""
    return next(chain(network.parameters(), network.buffers()), torch.empty(0)).device


def equal_batches(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Yield the same images `(N, C, H, W)` and labels in batches of `size`, the last perhaps smaller."""
    waiting: list[Batch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(len(images) for images, _ in waiting) >= size:
            images, labels = _joined(waiting)
            whole = len(images) // size * size
            yield from zip(torch.split(images[:whole], size), torch.split(labels[:whole], size), strict=True)
            waiting = [(images[whole:], labels[whole:])] if whole < len(images) else []
    if waiting:
        yield _joined(waiting)


def _joined(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]  # nothing is copied
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


@torch.no_grad()
def _answers(network: nn.Module, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield logits `(N, classes)` and labels `(N,)` on the network's device, in eval mode.

    Images are cut anew, so that no sum is rounded otherwise because they come in other batches. Logits that are nan or
    infinite are a `CheckpointError`, or a `DataError` where the images are.
    """
    network.eval()
    device = device_of(network)
    total = -(-sum(len(labels) for _, labels in batches) // IMAGES_A_PASS) if isinstance(batches, Sequence) else None
    for images, labels in told(equal_batches(batches, IMAGES_A_PASS), f"batches of {IMAGES_A_PASS} images", total):
        images = images_last(images, device)
        logits = network(images)
        check_logits(network, images, logits)
        yield logits, labels.to(device)


def logits_of(network: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Compute logits `(N, classes)` and labels `(N,)` of all images, in eval mode; raises as `check_logits`."""
    pairs = [(logits.cpu(), labels.cpu()) for logits, labels in _answers(network, batches)]
    return torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs])


def count_correct(network: nn.Module, batches: Iterable[Batch]) -> tuple[int, int]:
    """Count images whose largest logit is their label's, and all images, over every process of the group there is."""
    counts = torch.zeros(2, dtype=torch.int64, device=device_of(network))
    for logits, labels in _answers(network, batches):
        counts += torch.stack([(logits.argmax(1) == labels).sum(), torch.tensor(len(labels), device=labels.device)])
    correct, seen = sum_(counts).tolist()
    return correct, seen


def top1(network: nn.Module, batches: Iterable[Batch]) -> float:
    """Compute the share of images whose largest logit is their label's, in percent."""
    logits, labels = logits_of(network, batches)
    return 100.0 * float((logits.argmax(1) == labels).double().mean())


def calibrate_subnet(supernet: Supernet, spec: SubnetSpec, calibration: Sequence[Tensor]) -> None:
    """Make a subnet active and recalibrate its batch norm; the supernet is left in eval mode."""
    supernet.activate(spec)
    device = next(supernet.parameters()).device
    recalibrate(supernet, calibration, lambda images: supernet(images_last(images, device)))


def subnet_top1(supernet: Supernet, spec: SubnetSpec, calibration: Sequence[Tensor], batches: Iterable[Batch]) -> float:
    """Compute the top-1 in percent of one subnet, batch norm recalibrated first."""
    calibrate_subnet(supernet, spec, calibration)
    return top1(supernet, batches)


@dataclass(frozen=True)
class Evaluation:
    """Says what evaluating a subnet gave: top-1 in percent, images used (for recalibration too), whether it stopped."""

    top1: float
    images: int
    stopped: bool = False


class SubnetEvaluator:
    """Evaluates many subnets of one supernet: batches are brought to its device once, hopeless subnets stop early.

    Args:
        supernet: in the mode to evaluate, fp32 or INT8; it is moved to `device`.
        calibration: batches `(N, C, H, W)` for the batch-norm statistics of each subnet.
        batches: images and labels that decide.
        device: computes.
        chunk: images between two looks at whether a subnet is hopeless.
        stop_z: standard errors above its top-1 so far that a hopeless subnet lies below the asked one; None stops none.
    """

    def __init__(
        self,
        supernet: Supernet,
        calibration: Sequence[Tensor],
        batches: Iterable[Batch],
        *,
        device: torch.device | str = "cpu",
        chunk: int = 64,
        stop_z: float | None = 3.0,
    ) -> None:
        if stop_z is not None and stop_z <= 0:
            raise ConfigError(f"recipe.subnet_search.stop_z = {stop_z}; allowed: null, or a positive number")
        self.supernet = supernet.to(device)
        self.calibration = [images_last(images, device) for images in calibration]
        # Cut from the images, not from the batches they come in: a count then says the same whatever the loader's are.
        self.chunks = [
            (images_last(images, device), labels.to(device)) for images, labels in equal_batches(batches, chunk)
        ]
        self.total = sum(len(labels) for _, labels in self.chunks)
        self.stop_z = stop_z

    @torch.no_grad()
    def __call__(self, spec: SubnetSpec, hopeless_below: float | None = None) -> list[int]:
        """Count correct answers in one chunk after the other, until the subnet is hopeless or there are no more.

        Its batch norm is recalibrated first. It is hopeless where it will not reach `hopeless_below` percent.
        """
        calibrate_subnet(self.supernet, spec, self.calibration)
        counts: list[int] = []
        for images, labels in self.chunks:
            logits = self.supernet(images)
            check_logits(self.supernet, images, logits)
            counts.append(int((logits.argmax(1) == labels).sum()))
            if self.judge(counts, hopeless_below):
                break
        return counts

    def judge(self, counts: Sequence[int], hopeless_below: float | None = None) -> Evaluation | None:
        """Say what these counts amount to: the first so many of them as decide; None where more are needed."""
        correct, seen, calibrated = 0, 0, sum(map(len, self.calibration))
        for count, (_, labels) in zip(counts, self.chunks, strict=False):
            correct += count
            seen += len(labels)
            stopped = False
            if seen < self.total and self.stop_z is not None and hopeless_below is not None:
                stopped = 100.0 * upper_share(correct, seen, self.total, self.stop_z) < hopeless_below
            if stopped or seen == self.total:
                return Evaluation(100.0 * correct / seen, calibrated + seen, stopped)
        return None


def upper_share(correct: int, seen: int, total: int, z: float) -> float:
    """Compute an upper bound, `z` standard errors up, of the correct share of `total` from a part of it.

    Wilson's bound with the finite-population correction; never above what the images left allow.
    """
    share = correct / seen
    z2 = z * z * (total - seen) / max(total - 1, 1)
    centre = share + z2 / (2 * seen)
    spread = sqrt(z2 * (share * (1 - share) / seen + z2 / (4 * seen * seen)))
    return min((centre + spread) / (1 + z2 / seen), (correct + total - seen) / total)
