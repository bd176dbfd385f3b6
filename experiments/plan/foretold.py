"""What a plan and a status foretell of a chain, and what came of it: plans it, runs it, keeps its records meanwhile.

python experiments/plan/foretold.py FOLDER experiment=digits recipe.threads=1   # plans and runs below FOLDER, tells
python experiments/plan/foretold.py FOLDER                                      # tells again of what is kept there
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from spaceevo.artifacts import StageResult
from spaceevo.artifacts.progress import PROGRESS_FILE, STEPS_FILE, JobProgress, StepList
from spaceevo.terminal import console, print_rows

SHARES = (0.1, 0.2, 0.5)  # of a job's time, at which its end is asked for
LOOK_S = 0.5
PLANNED = {"step": "step", "told": "told", "took": "took", "error": "error %"}
PLANNED |= {"told_clock": "told by the clock", "took_clock": "took by the clock", "error_clock": "error %"}
ENDS = {"step": "step", "seconds": "took by the clock", **{f"{share}": f"error % at {share:.0%}" for share in SHARES}}
ENDS |= {"worst": "worst from 10 %"}


def run(folder: Path, words: Sequence[str]) -> None:
    """Plan a chain, then run it, and keep every record of progress; the run knows the plan's costs, and no more."""
    root, caches = folder / "runs", {name: folder / f"cache of {name}" for name in ("plan", "pipeline")}
    command = [sys.executable, "-m", "spaceevo", *words, f"paths.root={root}"]
    for name, cache in caches.items():
        if name == "pipeline":
            shutil.copytree(caches["plan"] / "costs", cache / "costs")
        began, environment = time.monotonic(), {**os.environ, "SPACEEVO_CACHE": str(cache)}
        with (folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen([*command, f"+stage={name}"], env=environment, stdout=log, stderr=log)
            while process.poll() is None:
                keep(root, folder / "kept")
                time.sleep(LOOK_S)
        console.print(f"{name}: code {process.returncode}, {time.monotonic() - began:.0f} s by the clock")


def keep(root: Path, kept: Path) -> None:
    """Keep the records of progress that are new."""
    for file in root.glob(f"*/{PROGRESS_FILE}"):
        target = kept / file.parent.name / f"{file.stat().st_mtime_ns}.json"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def steps(root: Path) -> Iterator[tuple[str, str]]:
    """Title and folder of each step."""
    found = StepList.read(root / "pipeline" / STEPS_FILE)
    return zip(found.titles, found.folders, strict=True)


def tell_plan(root: Path) -> None:
    """Print what the plan told of each step beside what that took, in seconds of processors and by the clock."""
    plan = StageResult.load(root / "plan")
    assert plan is not None
    costs = {row["step"]: row for row in plan.figures["costs"]}
    rows = []
    for title, folder in steps(root):
        result = StageResult.load(root / folder)
        assert result is not None
        told = [costs[title][name] for name in ("processor_seconds", "seconds")]
        rows.append(row(title, *told, result.processor_seconds, result.seconds))
    sums = [sum(float(each[name]) for each in rows) for name in ("told", "told_clock", "took", "took_clock")]
    print_rows([*rows, row("all", *sums)], PLANNED, "seconds of processors, and by the clock")


def row(title: str, told: float, told_clock: float, took: float, took_clock: float) -> dict[str, str]:
    """A row of that table."""
    shown = {"told": told, "took": took, "told_clock": told_clock, "took_clock": took_clock}
    errors = {"error": told / took - 1, "error_clock": told_clock / took_clock - 1}
    return {"step": title, **{k: f"{v:.1f}" for k, v in shown.items()}, **{k: f"{v:+.0%}" for k, v in errors.items()}}


def tell_ends(root: Path, kept: Path) -> None:
    """Print how far the end that the records tell of lies from that which came, in parts of the whole time."""
    rows = []
    for title, folder in steps(root):
        end = JobProgress.read(root / folder / PROGRESS_FILE)
        whole = end.told - end.began
        records = [JobProgress.read(file) for file in sorted((kept / folder).glob("*.json"))]
        found = [
            ((one.told - end.began) / whole, None if one.ends is None else (one.ends - end.told) / whole)
            for one in records
            if one.state == "running" and one.began == end.began
        ]
        told = {}
        for share in SHARES:
            after = [(at, error) for at, error in found if at >= share]
            told[f"{share}"] = f"{after[0][1]:+.1%} (at {after[0][0]:.0%})" if after and after[0][1] is not None else ""
        errors = [error for at, error in found if at >= SHARES[0] and error is not None]
        worst = f"{max(errors, key=abs):+.1%}" if errors else ""
        rows.append({"step": title, "seconds": f"{whole:.1f}", **told, "worst": worst})
    print_rows(rows, ENDS, "when a job is told to end")


if __name__ == "__main__":
    place, given = Path(sys.argv[1]).absolute(), sys.argv[2:]
    if given:
        place.mkdir(parents=True)
        run(place, given)
    tell_plan(place / "runs")
    tell_ends(place / "runs", place / "kept")
