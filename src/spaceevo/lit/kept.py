"""The state that a killed training goes on from: written whole, sealed, with the one before it kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io import TorchCheckpointIO

from spaceevo.artifacts import atomic_path, is_whole
from spaceevo.nn.checkpoint import write_sealed

RESUME_FILE, PREVIOUS_FILE = "last.ckpt", "previous.ckpt"


class KeptCheckpoints(TorchCheckpointIO):
    """Saves Lightning's checkpoints beside those they replace, which Lightning would write over from elsewhere."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write a checkpoint; a whole one that it replaces stays as `previous.ckpt` in its folder."""
        path = Path(path)
        with atomic_path(path) as temporary:
            write_sealed(temporary, checkpoint)
            if is_whole(path):
                path.replace(path.with_name(PREVIOUS_FILE))


def resume_from(folder: Path, say: Callable[[str], None] = lambda line: None) -> Path | None:
    """Find the state to go on from, the last one or where that is damaged the one before it, and say which."""
    last, previous = folder / RESUME_FILE, folder / PREVIOUS_FILE
    found = next(filter(is_whole, (last, previous)), None)
    if found != last and last.exists():
        say(f"{last} is damaged")
    if found is not None:
        say(f"resumes from {found}")
    return found
