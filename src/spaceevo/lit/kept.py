"""The state that a killed training goes on from: written whole, sealed, with the one before it kept."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from spaceevo.artifacts import atomic_path, is_whole
from spaceevo.lit.module import Trainer
from spaceevo.nn.checkpoint import write_sealed
from spaceevo.terminal import doing

WITHIN_FILE = "within.ckpt"  # of the epoch that was going on
SAVES = "saved states"  # A kind of work
RESUME_FILE, PREVIOUS_FILE = "last.ckpt", "previous.ckpt"  # of the last finished epoch, and of the one before it


class KeptCheckpoints(TorchCheckpointIO):
    """Saves Lightning's checkpoints beside those they replace, which Lightning would write over from elsewhere."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write a checkpoint; a whole one of an epoch that it replaces stays as `previous.ckpt` in its folder."""
        path = Path(path)
        with atomic_path(path) as temporary:
            write_sealed(temporary, checkpoint)
            if path.name == RESUME_FILE and is_whole(path):
                path.replace(path.with_name(PREVIOUS_FILE))


class StateKeeper(Checkpoint):
    """Keeps the state of a training in a folder: of every finished epoch, and every so many minutes within one."""

    def __init__(self, folder: Path, minutes: float | None) -> None:
        self.folder = folder
        self.minutes = minutes
        self._kept_at = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether training has begun: what it goes on from was taken up."""
        return self._kept_at > 0

    def on_train_start(self, *args: object) -> None:
        """Begin to count."""
        self._kept_at = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: Any, *args: object) -> None:
        """Keep the state within an epoch where it is time to; the first process's clock decides."""
        if self.minutes is None or trainer.is_last_batch:
            return
        is_due = time.monotonic() - self._kept_at >= 60 * self.minutes
        if trainer.strategy.broadcast(is_due) and not module.weights_fault():
            self._keep(trainer, WITHIN_FILE)

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Keep the state of a finished epoch, which is later than any within it."""
        self._keep(trainer, RESUME_FILE)
        if trainer.is_global_zero:
            (self.folder / WITHIN_FILE).unlink(missing_ok=True)

    def _keep(self, trainer: Trainer, name: str) -> None:
        with doing(SAVES):
            trainer.save_checkpoint(self.folder / name)
        self._kept_at = time.monotonic()


def resume_from(folder: Path, say: Callable[[str], None] = lambda line: None) -> Path | None:
    """Find the latest state to go on from that is not damaged, and say which."""
    for file in (folder / name for name in (WITHIN_FILE, RESUME_FILE, PREVIOUS_FILE)):
        if is_whole(file):
            say(f"resumes from {file}")
            return file
        if file.exists():
            say(f"{file} is damaged")
    return None
