"""Where the artefacts of one checkpoint folder lie, as the published system lays them out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spaceevo.artifacts.files import fingerprint


@dataclass(frozen=True)
class Layout:
    """Names the files and folders below one checkpoint folder (published layout)."""

    root: Path

    @staticmethod
    def file(int8: bool) -> str:
        """Return the name of a weights file: `checkpoint.pth` holds fp32 weights, `lsq.pth` INT8 ones."""
        return "lsq.pth" if int8 else "checkpoint.pth"

    def teacher(self, name: str, int8: bool) -> Path:
        """Return the file of a teacher's weights."""
        return self.root / "block_kd" / "teacher_checkpoint" / name / self.file(int8)

    def block(self, superspace: str, stage: str, block_index: int, int8: bool) -> Path:
        """Return the file of the weights of one candidate block of one stage."""
        return self.root / "block_kd" / superspace / f"{stage}_{block_index}" / self.file(int8)

    def space_choice(self, superspace: str) -> Path:
        """Return the file of the space that the last space search chose."""
        return self.root / "block_kd" / "search" / superspace / "best.json"

    def supernet(self, member: str, int8: bool) -> Path:
        """Return the file of a supernet's weights."""
        folder = member if member.endswith("-align1") else f"{member}-align0"
        return self.root / "supernet_training" / folder / self.file(int8)

    def finetuned(self, member: str, subnet: str, data: str, int8: bool) -> Path:
        """Return the file of one subnet's weights, finetuned on other data."""
        return self.root / "finetune" / data / f"{member}-{fingerprint(subnet)}" / self.file(int8)

    def released_supernet(self, name: str, int8: bool) -> Path:
        """Return the file of a published supernet's weights, as they were released."""
        return self.root / "supernet_training" / name / self.file(int8)

    def subnet_search(self, member: str) -> Path:
        """Return the folder of the last subnet search in a space."""
        return self.root / "search_subnet" / member
