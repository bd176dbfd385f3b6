"""The teacher's features of a few fixed batches, computed once and kept: in memory, and beyond a limit on disk."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from spaceevo.nn.losses import channel_variance
from spaceevo.nn.memory import channels_last, images_last
from spaceevo.nn.supernet import resize
from spaceevo.teacher import Teacher
from spaceevo.terminal import doing

FEATURES = "teacher's features"  # A kind of work
Batch = dict[str, Tensor]  # Features of a batch by stage


class Target(NamedTuple):
    """Holds what a stage's students are compared with."""

    source: Tensor  # their input
    output: Tensor  # what they are to reproduce
    variance: Tensor  # of that output, by image and channel


class Features(NamedTuple):
    """Holds the teacher's features for the students of one stage at one resolution, a batch an entry."""

    calibration: Sequence[Tensor]
    evaluation: Sequence[Target]


class TensorStore:
    """Keeps tensors: in memory up to a limit, further ones in files that are mapped back into memory.

    Args:
        folder: where files go; made when first needed. The caller removes it.
        limit_mib: most MiB that stay in memory.
    """

    def __init__(self, folder: Path, limit_mib: float) -> None:
        self.folder = folder
        self.free_bytes = limit_mib * 2**20
        self.files = 0

    def keep(self, tensor: Tensor) -> Tensor:
        """Return the same tensor, from now on in the store's care."""
        tensor = tensor.cpu()
        if tensor.nbytes <= self.free_bytes:
            self.free_bytes -= tensor.nbytes
            return tensor
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.files}.pt"
        self.files += 1
        torch.save(tensor, path)
        kept: Tensor = torch.load(path, mmap=True, weights_only=True)
        with suppress(OSError):
            path.unlink()  # the mapping keeps the data, and a killed run leaves no file; Windows refuses
        return kept


class TeacherFeatures:
    """Computes features for several stages in one pass of the teacher per batch and resolution.

    Args:
        teacher: the teacher, in eval mode.
        taps: stage → stage names of the features its students read and reproduce.
        resolutions: pixels the images are resized to.
        calibration: batches `(N, 3, H, W)` for batch norm; only students' inputs are kept of them.
        evaluation: batches `(N, 3, H, W)` for the loss.
        store: keeps the features.
        device: where the teacher runs.
        step: called after each batch.
    """

    def __init__(
        self,
        teacher: Teacher,
        taps: Mapping[str, tuple[str, str]],
        resolutions: Sequence[int],
        calibration: Sequence[Tensor],
        evaluation: Sequence[Tensor],
        store: TensorStore,
        device: torch.device,
        step: Callable[[], object] = lambda: None,
    ) -> None:
        teacher = channels_last(teacher).to(device)

        def run(images: Tensor, resolution: int, stages: Sequence[str]) -> Batch:
            found = teacher.features(resize(images_last(images, device), resolution), *stages)
            step()
            return {stage: store.keep(feature) for stage, feature in zip(stages, found, strict=True)}

        def run_all(resolution: int) -> tuple[list[Batch], list[Batch]]:
            with doing(FEATURES):
                kept = [run(images, resolution, sources) for images in calibration]
                return kept, [run(images, resolution, every) for images in evaluation]

        self.taps = taps
        sources = sorted({source for source, _ in taps.values()})
        every = sorted({stage for pair in taps.values() for stage in pair})
        found = {resolution: run_all(resolution) for resolution in resolutions}
        self._calibration = {resolution: batches for resolution, (batches, _) in found.items()}
        self._evaluation = {resolution: batches for resolution, (_, batches) in found.items()}
        self._of: dict[tuple[str, int], Features] = {}

    def of(self, stage: str, resolution: int) -> Features:
        """Return the features for a stage's students at one resolution."""
        if (stage, resolution) not in self._of:
            source, target = self.taps[stage]
            batches = self._evaluation[resolution]
            targets = [Target(batch[source], batch[target], channel_variance(batch[target])) for batch in batches]
            inputs = [batch[source] for batch in self._calibration[resolution]]
            self._of[stage, resolution] = Features(inputs, targets)
        return self._of[stage, resolution]
