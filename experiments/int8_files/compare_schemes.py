"""Top-1 of INT8 training under quant=deploy against quant=published, from the same fp32 supernets of digits.

    python experiments/int8_files/compare_schemes.py [seeds]

Everything is kept under runs/int8_files and skipped when run again; the last lines are the table of README.md.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

SPACE = "digits-012-110"
RUNS = Path("runs/int8_files")
SUBNETS = {
    "largest": "max",
    "smallest": "min",
    "middle": "d1#1#2#1#2_k3#3#5#3#3#3#3_w16#8#24#32#32#48#40_e0#0#3.0#2.0#2.0#1.0#0.5_r24",
}


def stage(name: str, root: Path, *overrides: str) -> dict[str, float]:
    """Run a stage; return its figures."""
    command = [sys.executable, "-m", "spaceevo", f"+stage={name}", "superspace=digits", f"space={SPACE}"]
    subprocess.run([*command, f"paths.root={root}", *overrides], check=True, stdout=subprocess.DEVNULL)
    folder = {"evaluate": "evaluate", "supernet": "supernet_fp32" if "quant=off" in overrides else "supernet_int8"}
    result: dict[str, float] = json.loads((root / folder[name] / "result.json").read_text())
    return result


def top1(root: Path, seed: int, quant: str) -> dict[str, float]:
    """Top-1 of the subnets under one scheme, training what is not trained yet."""
    settings = (f"quant={quant}", f"seed={seed}")
    stage("supernet", root, *settings)
    figures = stage("evaluate", root, *settings, f"subnet=[{','.join(repr(text) for text in SUBNETS.values())}]")
    return {name: row["top1"] for name, row in zip(SUBNETS, figures["subnets"], strict=True)}  # type: ignore[call-overload]


def compare(seed: int) -> dict[str, dict[str, float]]:
    """Both schemes, and fp32, from one fp32 supernet."""
    found: dict[str, dict[str, float]] = {}
    source = RUNS / f"seed{seed}" / "off"
    found["off"] = top1(source, seed, "off")
    weights = Path("checkpoints/supernet_training") / f"{SPACE}-align0" / "checkpoint.pth"
    for quant in ("deploy", "published"):
        root = RUNS / f"seed{seed}" / quant
        (root / weights).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / weights, root / weights)
        found[quant] = top1(root, seed, quant)
    return found


def main() -> None:
    """Run all seeds; print the table."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    found = {}
    for seed in seeds:
        found[seed] = compare(seed)
        print(seed, json.dumps(found[seed]), flush=True)
    print("| subnet | fp32 | deploy | published | deploy − published, each seed |\n|---|---|---|---|---|")
    for name in SUBNETS:
        columns = {quant: [found[seed][quant][name] for seed in seeds] for quant in ("off", "deploy", "published")}
        means = [f"{statistics.mean(values):.2f}" for values in columns.values()]
        apart = [f"{a - b:+.2f}" for a, b in zip(columns["deploy"], columns["published"], strict=True)]
        print(f"| {name} | {' | '.join(means)} | {' '.join(apart)} |")


if __name__ == "__main__":
    main()
