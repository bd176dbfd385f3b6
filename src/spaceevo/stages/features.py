"""The teacher's features of a few fixed batches, computed once and kept: in memory, and beyond a limit on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from spaceevo.errors import ConfigError
from spaceevo.nn.losses import channel_variance
from spaceevo.nn.memory import channels_last, images_last
from spaceevo.nn.supernet import resize
from spaceevo.teacher import Teacher


class Target(NamedTuple):
    """What a stage's students are compared with: its input, the output to reproduce and that output's variance."""

    source: Tensor
    output: Tensor
    variance: Tensor


class Features(NamedTuple):
    """The teacher's features for the students of one stage at one resolution, a batch an entry."""

    calibration: Sequence[Tensor]
    evaluation: Sequence[Target]


class TensorStore:
    """Keeps tensors: in memory up to a limit, further ones in files that are mapped back into memory.

    Args:
        folder: where files go; made when first needed. The caller removes it.
        limit_mib: most MiB that stay in memory.

    Raises:
        ConfigError: the limit is negative.
    """

    def __init__(self, folder: Path, limit_mib: float) -> None:
        if limit_mib < 0:
            raise ConfigError(f"recipe.block_lut.cache_mib = {limit_mib}; allowed: 0 or more")
        self.folder = folder
        self.limit_bytes = limit_mib * 2**20
        self.kept_bytes = 0
        self.files = 0

    def keep(self, tensor: Tensor) -> Tensor:
        """The same tensor, from now on in the store's care."""
        tensor = tensor.cpu()
        size = tensor.numel() * tensor.element_size()
        if self.kept_bytes + size <= self.limit_bytes:
            self.kept_bytes += size
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
    """Features for several stages from one pass of the teacher per batch and resolution.

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
        self.taps = taps
        self._teacher = channels_last(teacher).to(device)
        self._device = device
        self._store = store
        inputs = sorted({source for source, _ in taps.values()})
        every = sorted({stage for pair in taps.values() for stage in pair})
        self._found: dict[int, tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]] = {}
        for resolution in resolutions:
            batches: tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]] = ([], [])
            for images, stages, kept in [
                *((images, inputs, batches[0]) for images in calibration),
                *((images, every, batches[1]) for images in evaluation),
            ]:
                kept.append(self._run(images, resolution, stages))
                step()
            self._found[resolution] = batches
        self._variances: dict[tuple[str, int], list[Tensor]] = {}

    def _run(self, images: Tensor, resolution: int, stages: Sequence[str]) -> dict[str, Tensor]:
        features = self._teacher.features(resize(images_last(images, self._device), resolution), *stages)
        return {stage: self._store.keep(feature) for stage, feature in zip(stages, features, strict=True)}

    def of(self, stage: str, resolution: int) -> Features:
        """Features for a stage's students at one resolution."""
        (source, target), (calibration, evaluation) = self.taps[stage], self._found[resolution]
        if (stage, resolution) not in self._variances:
            self._variances[stage, resolution] = [channel_variance(found[target]) for found in evaluation]
        variances = self._variances[stage, resolution]
        targets = [Target(f[source], f[target], v) for f, v in zip(evaluation, variances, strict=True)]
        return Features([found[source] for found in calibration], targets)
