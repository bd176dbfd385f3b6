"""What the training stages share: one run that skips, resumes and ends in artefacts."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from spaceevo.torchvision_shim import ensure_torchvision

ensure_torchvision()

from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint  # noqa: E402  torchmetrics imports torchvision

from spaceevo.artifacts import Layout, fingerprint, read_json, write_json  # noqa: E402
from spaceevo.lit.datamodule import ImageFolderDataModule  # noqa: E402
from spaceevo.lit.guard import DivergenceError  # noqa: E402
from spaceevo.lit.module import MultiPassModule, Recipe, Trainer  # noqa: E402
from spaceevo.nn.checkpoint import CheckpointMeta, save_checkpoint  # noqa: E402
from spaceevo.nn.loading import read_checkpoint  # noqa: E402
from spaceevo.quant.quantizer import DEPLOY, Scheme, quant_scheme  # noqa: E402
from spaceevo.space.superspace import Superspace  # noqa: E402
from spaceevo.teacher import TeacherConfig  # noqa: E402

__all__ = ["Job", "MultiPassModule", "QuantConfig", "Recipe", "TrainingRun"]

log = logging.getLogger(__name__)
Figures = dict[str, Any]


@dataclass(frozen=True)
class QuantConfig:
    """What `conf/quant` chooses: `off` trains fp32, a scheme's name trains INT8 from the fp32 weights."""

    name: str

    @property
    def int8(self) -> bool:
        """Whether quantisers are on."""
        return self.name != "off"

    @property
    def scheme(self) -> Scheme:
        """Scheme of the quantisers; fp32 networks carry those of `deploy`, switched off."""
        return quant_scheme(self.name) if self.int8 else DEPLOY


@dataclass(frozen=True)
class Job:
    """One network to train.

    Attributes:
        name: shown to the user; a key of the module's `parts`.
        target: checkpoint it ends in.
        inputs: hashes of upstream files.
        meta: plain values to keep beside the weights.
    """

    name: str
    target: Path
    inputs: Mapping[str, Any]
    meta: Mapping[str, Any]


@dataclass
class TrainingRun:
    """Everything a training stage is given.

    Attributes:
        data: the images.
        superspace: the superspace.
        teacher: the teacher's description.
        quant: fp32, or a quantisation scheme.
        layout: where artefacts lie.
        output: folder for what only this run needs (logs, resume state).
        seed: seed of everything random.
        make_trainer: makes a Trainer from its output folder, epochs and extra callbacks.
        describe: plain settings that decide the result; part of every artefact's fingerprint.
        announce: shows a line to the user.
    """

    data: ImageFolderDataModule
    superspace: Superspace
    teacher: TeacherConfig
    quant: QuantConfig
    layout: Layout
    output: Path
    seed: int
    make_trainer: Callable[[Path, int, list[Any]], Trainer]
    describe: Mapping[str, Any]
    announce: Callable[[str], None]
    made: dict[str, Path] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    trained: int = 0
    """Networks trained, not skipped."""

    def command(self, stage: str, *overrides: str) -> str:
        """Command line of another stage of this superspace."""
        return " ".join(["python -m spaceevo", f"+stage={stage}", f"superspace={self.superspace.name}", *overrides])

    def fit(
        self,
        name: str,
        target: Path,
        make_module: Callable[[], MultiPassModule],
        figures: Callable[[MultiPassModule], Figures],
        inputs: Mapping[str, Any],
        meta: Mapping[str, Any],
    ) -> Figures:
        """Train one network into `target`, or skip it if `target` came from the same settings and inputs.

        A killed run goes on at its last finished epoch.

        Args:
            name: shown to the user; also the run's folder below `output`.
            target: checkpoint to write.
            make_module: builds what is trained, weights loaded.
            figures: measures the trained module.
            inputs: hashes of upstream files.
            meta: plain values to keep beside the weights.
        """
        job = Job(name, target, inputs, meta)
        return self.fit_together(name, [job], lambda _: make_module(), lambda module: {name: figures(module)})[name]

    def fit_together(
        self,
        label: str,
        jobs: Sequence[Job],
        make_module: Callable[[Sequence[str]], MultiPassModule],
        figures: Callable[[MultiPassModule], Mapping[str, Figures]],
    ) -> dict[str, Figures]:
        """Train networks in company, one pass over the data for all; those whose checkpoints are current are skipped.

        Args:
            label: folder of the run below `output`.
            jobs: the networks.
            make_module: builds the module that trains the networks of these names, weights loaded.
            figures: measures each network of the trained module.
        """
        found, due = {}, {}
        for job in jobs:
            expected = fingerprint([job.name, dict(self.describe), dict(job.inputs), dict(job.meta)])
            self.made[job.name] = job.target
            known = read_checkpoint(job.target, job.name).meta if job.target.exists() else CheckpointMeta()
            if known.fingerprint == expected:
                self.announce(f"{job.name}: unchanged, skipped ({job.target})")
                found[job.name] = dict(known.figures)
            else:
                due[job.name] = (job, expected)
        if not due:
            return found
        self.trained += len(due)
        started, state = time.monotonic(), self.output / label / fingerprint([mark for _, mark in due.values()])
        module, trainer = self._train(label, state, lambda: make_module(list(due)))
        measured, seconds = figures(module), round(time.monotonic() - started, 1)
        for name, (job, expected) in due.items():
            found[name] = {**measured[name], "seconds": seconds}
            if trainer.is_global_zero:
                meta = CheckpointMeta.from_plain({**job.meta, "fingerprint": expected, "figures": found[name]})
                save_checkpoint(job.target, module.parts.get(name, module.network), meta)
            shown = ", ".join(f"{k} {v:.4g}" for k, v in found[name].items())
            self.announce(f"{name}: {shown} → {job.target}")
        if trainer.is_global_zero:
            shutil.rmtree(state, ignore_errors=True)
        trainer.strategy.barrier()  # no process may look for a checkpoint before it is written
        return found

    def _train(
        self, label: str, state: Path, make_module: Callable[[], MultiPassModule]
    ) -> tuple[MultiPassModule, Trainer]:
        """Train from the last finished epoch in folder `state`; after a divergence, as the recipe's guard says."""
        resume, rollbacks_file = state / "last.ckpt", state / "rollbacks.json"
        rollbacks = int(read_json(rollbacks_file)) if rollbacks_file.exists() else 0
        while True:
            torch.manual_seed(self.seed)  # what a library initialises draws from the global generator
            module = make_module()
            guard = module.recipe.guard
            module.rate_factor = guard.rate_factor**rollbacks
            # Without `monitor` the one checkpoint kept is the latest: of the last finished epoch.
            callbacks: list[Any] = [ModelCheckpoint(state, "last", save_top_k=1, enable_version_counter=False)]
            if module.recipe.ema_decay is not None:
                callbacks.append(EMAWeightAveraging(decay=module.recipe.ema_decay, use_buffers=False))
            trainer = self.make_trainer(self.output / label, module.recipe.epochs, callbacks)
            if resume.exists():
                self.announce(f"{label}: resumes from {resume}")
            try:
                trainer.fit(module, self.data, ckpt_path=str(resume) if resume.exists() else None)
            except DivergenceError as error:
                if guard.action == "stop" or rollbacks >= guard.attempts:
                    raise
                rollbacks += 1
                self.announce(f"{label}: {error}; rolled back, rates now times {guard.rate_factor**rollbacks:.4g}")
                if trainer.is_global_zero:
                    write_json(rollbacks_file, rollbacks)
                continue
            if trainer.interrupted:
                raise KeyboardInterrupt
            return module, trainer
