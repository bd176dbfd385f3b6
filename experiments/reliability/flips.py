"""Flips one bit in each of many places of every artefact of a finished chain, and counts how often that is found.

`flips.py runs/digits [places]`. The folder is copied first; the copy is damaged.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from spaceevo.artifacts import StageResult, file_hash, read_sealed_json
from spaceevo.errors import SpaceEvoError
from spaceevo.nn.loading import read_checkpoint
from spaceevo.search.lut import _checked_hash, lut_record
from spaceevo.space.description import superspace
from spaceevo.stages.fitness import _read as read_evaluations

Finds = Callable[[Path], bool]  # Whether a reader refuses a file, or a job would be made anew for it
NO_ARTEFACTS = (".png", ".log", ".yaml", ".lock")  # pictures, and what nothing reads


def refused(read: Callable[[Path], object]) -> Finds:
    """A reader finds damage where it raises an error of the project."""

    def finds(path: Path) -> bool:
        try:
            read(path)
        except SpaceEvoError:
            return True
        return False

    return finds


def of_a_result(known: str) -> Finds:
    """A job whose output has another hash than its result says is not skipped."""
    return lambda path: file_hash(path) != known


def of_evaluations(whole: Path) -> Finds:
    """A line whose own checksum differs is taken out."""
    content = whole.read_bytes()
    count = len(read_evaluations(whole))

    def finds(path: Path) -> bool:
        damaged = path.read_bytes()
        found = len(read_evaluations(path)) < count
        path.write_bytes(damaged)
        return found or damaged == content

    return finds


def checks(root: Path, name: str) -> dict[Path, list[Finds]]:
    """What looks at each file of a chain, by the file."""
    digits = superspace(name)
    found: dict[Path, list[Finds]] = {
        path: [] for path in sorted(root.rglob("*")) if path.is_file() and path.suffix not in NO_ARTEFACTS
    }
    for record in root.rglob("result.json"):
        result = StageResult.load(record.parent)
        for recorded, known in (result.checksums if result else {}).items():
            path = root / recorded.split(f"/{root.name}/", 1)[-1]
            if path in found:
                found[path].append(of_a_result(known))
    for path, finds in found.items():
        if path.suffix in (".pth", ".ckpt"):
            finds.append(refused(lambda path: read_checkpoint(path, "weights")))
        elif path.suffix == ".json" and "checksum" in path.read_text()[:20]:
            finds.append(refused(read_sealed_json))
        elif path.suffix == ".jsonl":
            finds.append(of_evaluations(path))
        elif lut_record(path).is_file() and path.parent.name != ".made":
            finds.append(refused(lambda path: _checked_hash(path, digits)))
    return found


def flips(content: bytes, seed: str, count: int) -> Iterator[bytes]:
    """Yield a file's content with one bit changed, in so many places."""
    for place in Random(seed).sample(range(8 * len(content)), min(count, 8 * len(content))):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        yield bytes(damaged)


def main(given: Path, places: int = 150) -> None:
    """Count, and list by kind of file."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / given.name
        shutil.copytree(given, root)
        tried, found, files = Counter[str](), Counter[str](), Counter[str]()
        for path, finds in checks(root, "digits").items():
            kind = f"{path.parent.name}/*" if path.parent.name.startswith(".") else f"*{path.suffix}"
            if not finds:
                print("nothing looks at", path.relative_to(root))
                continue
            content = path.read_bytes()
            files[kind] += 1
            for damaged in flips(content, path.name, places):
                path.write_bytes(damaged)
                tried[kind] += 1
                found[kind] += any(find(path) for find in finds)
            path.write_bytes(content)
        for kind in sorted(tried):
            print(f"{kind}: {files[kind]} files, {found[kind]} of {tried[kind]} flips found")
        print(f"{sum(files.values())} files, {found.total()} of {tried.total()} flips found")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
