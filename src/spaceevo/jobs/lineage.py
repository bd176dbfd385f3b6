"""Which files that a job reads and makes are links of a chain: teacher, block, LUT, space, supernet, subnet, file."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spaceevo.artifacts import checksums, fingerprint

KINDS = {
    "block_lut": "lut",
    "teacher_checkpoint": "teacher",
    "search_subnet": "subnet",
    "search": "space",
    "supernet_training": "supernet",
    "finetune": "subnet",
    "block_kd": "block",
    "export": "file",
}
"""How the folder of a link begins → what the link is; the first that fits counts (`Layout`, `conf/paths`)."""
SHOWN = (".csv", ".png")  # of files: tables and pictures are told as such
MOST_LETTERS = 128  # of a name in W&B


@dataclass(frozen=True)
class Artefact:
    """Describes a link: the same content under the same name is the same link, whoever tells of it."""

    name: str  # its path below the folder of the chain, in letters that every tracker takes
    kind: str  # one of `KINDS`
    path: Path  # the file, or the folder that is one link
    files: dict[str, str]  # hash of each of its files, by path

    @property
    def digest(self) -> str:
        """A hash of all its content, wherever it lies."""
        return fingerprint([[Path(file).name, value] for file, value in self.files.items()])


def artefacts(paths: Iterable[Path], root: Path) -> Iterator[Artefact]:
    """Yield the links among files and folders, each once; `root` is the folder of the chain."""
    for path in dict.fromkeys(_link(path) for path in paths if path.exists()):
        relative = (
            path.absolute().relative_to(root.absolute()) if path.absolute().is_relative_to(root.absolute()) else path
        )
        kind = next((KINDS[word] for word in KINDS if any(part.startswith(word) for part in relative.parts)), "")
        if kind and path.suffix not in SHOWN:
            name = re.sub(r"[^\w.-]", "-", ".".join(relative.parts).strip("/"), flags=re.ASCII)[-MOST_LETTERS:]
            yield Artefact(name, kind, path, checksums([path]))


def _link(path: Path) -> Path:
    """The folder whose files are one link, as look-up tables and the subnets of a front are; else the path itself."""
    folder = path.parent
    is_part = folder.name == "subnets" or (path.suffix == ".csv" and folder.parent.name.startswith("block_lut"))
    return folder if is_part else path
