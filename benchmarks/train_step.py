"""One supernet step (four sandwich passes) of onnxw-151122-023231: ours, and the plain form in contiguous memory.

Each form runs in a process of its own, in turns, so that peak memory can be told apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import nullcontext
from random import Random

import torch
from plain import clock, machine, peak_mib, plain_forms

from spaceevo.lit.module import Recipe
from spaceevo.lit.supernet import SupernetModule
from spaceevo.nn.memory import channels_last, images_last
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.prepare import set_quant
from spaceevo.space.description import parse_space

FORMS = ("fp32 plain", "fp32", "int8 plain", "int8", "int8 bf16")


def measure(form: str, space: str, batch: int, steps: int) -> dict[str, float]:
    """Least seconds of a step, and peak memory, of one form in this process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    supernet = Supernet(parse_space(space)).to(device).train()
    set_quant(supernet, form.startswith("int8"))
    module = SupernetModule(supernet, Recipe(1, torch.optim.SGD), 0, 0.1, 0.2)
    images, labels = torch.randn(batch, 3, 224, 224, device=device), torch.randint(1000, (batch,), device=device)
    plain = form.endswith("plain")
    if not plain:
        channels_last(supernet)
        images = images_last(images)
    optimizer = torch.optim.SGD(supernet.parameters(), 0.01, momentum=0.9)
    seconds = []
    for step in range(steps + 1):
        started = clock()
        with plain_forms() if plain else nullcontext():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=form.endswith("bf16")):
                for _, loss in module.passes(images, labels, Random(1)):
                    loss.backward()
            optimizer.step()
        seconds.append(clock() - started if step else float("inf"))
    return {"seconds": min(seconds), "peak_mib": peak_mib()}


def main() -> None:
    """Measure every form and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--form", choices=FORMS)
    parser.add_argument("--space", default="onnxw-151122-023231")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    if asked.form:
        print(json.dumps(measure(asked.form, asked.space, asked.batch, asked.steps)))
        return
    found: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    for _ in range(asked.rounds):
        for form in FORMS:
            command = [sys.executable, __file__, "--form", form, "--space", asked.space]
            command += ["--batch", str(asked.batch), "--steps", str(asked.steps)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[form].append(json.loads(done.stdout))
    best = {form: min(run["seconds"] for run in runs) for form, runs in found.items()}
    print(f"supernet step of {asked.space}, batch {asked.batch}; {machine()}")
    for form, seconds in best.items():
        plain = best[f"{form[:4]} plain"]
        mib = min(run["peak_mib"] for run in found[form])
        print(f"{form:11} {seconds:6.2f} s  {plain / seconds:4.2f}x of plain  peak {mib:5.0f} MiB")


if __name__ == "__main__":
    main()
