"""What the training stages share: the multi-pass module, and one run that skips, resumes and ends in an artefact."""

from __future__ import annotations

import logging
import math
import shutil
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from spaceevo.torchvision_shim import ensure_torchvision

ensure_torchvision()
from pytorch_lightning import LightningModule, Trainer  # noqa: E402  torchmetrics imports torchvision
from pytorch_lightning.callbacks import ModelCheckpoint  # noqa: E402

from spaceevo.artifacts import Layout, fingerprint  # noqa: E402
from spaceevo.errors import ConfigError, SpaceEvoError  # noqa: E402
from spaceevo.lit.datamodule import ImageFolderDataModule  # noqa: E402
from spaceevo.nn.checkpoint import read_checkpoint, save_checkpoint  # noqa: E402
from spaceevo.quant.quantizer import DEPLOY, Scheme, quant_scheme  # noqa: E402
from spaceevo.space.superspace import Superspace  # noqa: E402
from spaceevo.teacher import TeacherConfig  # noqa: E402

log = logging.getLogger(__name__)
OptimizerFactory = Callable[..., torch.optim.Optimizer]


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
class Recipe:
    """How one network is trained.

    Attributes:
        epochs: passes over the training images.
        optimizer: makes the optimiser from parameter groups.
        warmup_epochs: linear warm-up, then cosine to 0.
        clip_value: bound of each gradient's absolute value; None leaves them.
        decay_all: whether weight decay acts on norms, biases and quantiser scalars too.
    """

    epochs: int
    optimizer: OptimizerFactory
    warmup_epochs: float = 0.0
    clip_value: float | None = 1.0
    decay_all: bool = False

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: epochs below 1 or warm-up longer than training.
        """
        if self.epochs < 1:
            raise ConfigError(f"recipe: epochs = {self.epochs}; allowed: 1 or more")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise ConfigError(f"recipe: warmup_epochs = {self.warmup_epochs}; allowed: 0…epochs ({self.epochs})")


class MultiPassModule(LightningModule):
    """A training step of several passes, each with a backward of its own, then one optimiser step.

    All randomness of a step comes from the seed and the step's number, so a resumed run repeats an undisturbed one, and
    all ranks draw the same subnets.
    """

    def __init__(self, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.recipe = recipe
        self.seed = seed

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """What is trained and saved."""

    @abstractmethod
    def passes(self, images: Tensor, labels: Tensor, rng: Random) -> Iterator[tuple[str, Tensor]]:
        """Name and loss of each pass; the next is asked for after the backward of the last."""

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """One optimiser step on `(images (N, 3, H, W), labels (N,))`."""
        optimizer = self.optimizers()
        torch.manual_seed(int(fingerprint([self.seed, self.global_step]), 16) % 2**63)
        rng = Random(f"{self.seed}-{self.global_step}")
        optimizer.zero_grad(set_to_none=True)  # type: ignore[union-attr]
        for name, loss in self.passes(*batch, rng):
            if not torch.isfinite(loss):
                raise TrainingError(name, float(loss), self.global_step)
            self.manual_backward(loss)
            self.log(f"train/{name}_loss", loss.detach(), prog_bar=name in ("max", "loss"))
        self.clip_gradients(optimizer, self.recipe.clip_value, "value")  # type: ignore[arg-type]
        optimizer.step()  # type: ignore[union-attr]
        self.lr_schedulers().step()  # type: ignore[union-attr]

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser; warm-up from a thousandth, then cosine to 0, by step."""
        trained = [p for p in self.network.parameters() if p.requires_grad]
        decayed = [p for p in trained if self.recipe.decay_all or p.ndim > 1]
        rest = [p for p in trained if not (self.recipe.decay_all or p.ndim > 1)]
        groups = [{"params": decayed}, *([{"params": rest, "weight_decay": 0.0}] if rest else [])]
        optimizer = self.recipe.optimizer(groups)
        total = max(1, int(self.trainer.estimated_stepping_batches))
        warmup = int(total * self.recipe.warmup_epochs / self.recipe.epochs)

        def factor(step: int) -> float:
            warm = 1.0 if step >= warmup else 0.001 + 0.999 * step / warmup
            return warm * 0.5 * (1 + math.cos(math.pi * min(step, total) / total))

        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}


class TrainingError(SpaceEvoError):
    """The loss is no longer a number."""

    def __init__(self, name: str, loss: float, step: int) -> None:
        super().__init__(
            f"{name} loss is {loss} at step {step}; lower the learning rate (recipe.<stage>.<precision>.optimizer.lr) "
            "and run the same command again: it resumes at the last finished epoch"
        )


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
        figures: Callable[[MultiPassModule], dict[str, Any]],
        inputs: Mapping[str, Any],
        meta: Mapping[str, Any],
    ) -> dict[str, Any]:
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
        expected = fingerprint([name, dict(self.describe), dict(inputs), dict(meta)])
        self.made[name] = target
        if target.exists():
            known = read_checkpoint(target, name, "").meta
            if known.get("fingerprint") == expected:
                self.announce(f"{name}: unchanged, skipped ({target})")
                return dict(known["figures"])
        self.trained += 1
        folder, started = self.output / name, time.monotonic()
        resume = folder / expected / "last.ckpt"
        torch.manual_seed(self.seed)  # what a library initialises draws from the global generator
        module = make_module()
        saver = ModelCheckpoint(resume.parent, save_last=True, save_top_k=0, enable_version_counter=False)
        trainer = self.make_trainer(folder, module.recipe.epochs, [saver])
        if resume.exists():
            self.announce(f"{name}: resumes from {resume}")
        trainer.fit(module, self.data, ckpt_path=str(resume) if resume.exists() else None)
        if trainer.interrupted:
            raise KeyboardInterrupt
        found = {**figures(module), "seconds": round(time.monotonic() - started, 1)}
        if trainer.is_global_zero:
            save_checkpoint(target, module.network, {**meta, "fingerprint": expected, "figures": found})
            shutil.rmtree(resume.parent, ignore_errors=True)
        shown = ", ".join(f"{k} {v:.4g}" for k, v in found.items())
        self.announce(f"{name}: {shown} → {target}")
        return found
