"""Processor time of the checksums and flushes of a finished chain, beside what the whole chain took.

`costs.py runs/digits table.json`: each part is done with the chain's own files as often as the chain does it at least
(what is read is read by `READS` jobs), on a copy of a file, and timed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from spaceevo.artifacts import StageResult, file_hash
from spaceevo.artifacts.files import flush
from spaceevo.artifacts.progress import PROGRESS_FILE, JobProgress
from spaceevo.artifacts.seals import _digest, is_as_sealed
from spaceevo.jobs.recording import SECONDS_A_RECORD
from spaceevo.platforms.measuring import SAVE_EVERY

READS = 4  # jobs that read one checkpoint or record, at most
STATE = 3  # sizes of a checkpoint that a state has: weights, what the optimiser keeps, averages
FLUSHES = 2  # of each write: the file and its folder


def seconds(work: Callable[[], object], times: int = 20) -> float:
    """Processor seconds of one call, system's included."""
    work()
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def main(root: Path, table: Path) -> None:
    """Time the parts, and print their sum."""
    results = [found for record in root.glob("*/result.json") if (found := StageResult.load(record.parent))]
    progress = [JobProgress.read(record.parent / PROGRESS_FILE) for record in root.glob(f"*/{PROGRESS_FILE}")]
    counted = {spent.kind: 0 for one in progress for spent in one.spent}
    for one in progress:
        for spent in one.spent:
            counted[spent.kind] += spent.times
    weights = sorted(root.rglob("*.pth"))
    named = [root / name.split(f"/{root.name}/", 1)[-1] for result in results for name in result.checksums]
    outputs = [path for path in named if path.is_file()]
    records = sum((one.told - one.began) / SECONDS_A_RECORD for one in progress)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        copy, content = Path(folder) / "a.pth", weights[-1].read_bytes()
        copy.write_bytes(content[: -len(content) // 2] * 2 + b"\0\0")
        of_a_byte = seconds(lambda: file_hash(copy)) / copy.stat().st_size
        some = {"stage": "a", "rows": [{"name": str(number), "ms": number / 7} for number in range(40)]}
        text = table.read_text(encoding="utf-8")
        line = json.dumps(["x" * 100, 1.0, 2.0])
        parts = {
            "outputs, made and checked": 2 * of_a_byte * sum(path.stat().st_size for path in outputs),
            "checkpoints": sum(seconds(lambda path=path: is_as_sealed(path), 3) for path in weights) * (1 + READS),
            "states of trainings": of_a_byte * STATE * max(p.stat().st_size for p in weights) * counted["saved states"],
            "latency tables": seconds(lambda: _digest(text)) * (counted["measured blocks"] / SAVE_EVERY + READS),
            "records": seconds(lambda: _digest(json.dumps(some))) * (records + READS * len(results)),
            "rows and evaluations": seconds(lambda: _digest(line)) * (counted["rows"] + counted["evaluated subnets"]),
        }
        writes = records + len(weights) + len(outputs) + counted["saved states"]
        parts["flushes"] = FLUSHES * writes * seconds(lambda: flush(copy))
    whole = sum(result.processor_seconds or 0 for result in results if result.stage != "pipeline")
    for name, took in parts.items():
        print(f"{name}: {took:.3f} s")
    print(f"{sum(parts.values()):.2f} of {whole:.0f} processor seconds: {100 * sum(parts.values()) / whole:.2f} %")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
