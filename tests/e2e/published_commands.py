"""What the published scripts do, and our command for it: the page, and the same commands on small things.

`python -m tests.e2e.published_commands` writes the page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parents[2] / "docs/from-the-published-scripts.md"
IMAGENET = "data.root=/path/to/imagenet"
SEARCH = (
    "+stage=space_search superspace=mobilew platform=pixel4 platform.fixed_latency_ms=2.6 "
    "paths.lut=block_lut/mobilew latency_constraint=[15,20]"
)
FITTED = "platform=pixel4 platform.unknown_blocks=fitted"
RELEASED = "checkpoint=lsq.pth quant=published"


class Line(NamedTuple):
    """One row of the page."""

    published: str  # what is done there
    ours: str  # words after `python -m spaceevo`
    note: str = ""


LINES = (
    Line(
        "fp32 teacher",
        f"experiment=mobilew/teacher quant=off {IMAGENET}",
        "for images other than ImageNet; else the library's weights serve",
    ),
    Line("INT8 teacher (LSQ+, one epoch)", f"experiment=mobilew/teacher {IMAGENET}"),
    Line(
        "block-wise distillation, fp32: all candidates of a stage",
        f"experiment=mobilew/block_kd block=stage1 {IMAGENET}",
        "plain `+stage=block_kd` is not the published recipe: no 50,000 held-out images, no rates by stage",
    ),
    Line("the same in INT8 (LSQ+)", f"experiment=mobilew/block_kd_int8 block=stage1 {IMAGENET}"),
    Line(
        "rates of stages of your own",
        f"experiment=mobilew/block_kd block=[stage1_0,stage2_0] recipe.lr_by_stage.fp32.stage2=0.02 {IMAGENET}",
        "the experiment has the published ones of stages 1 and 6",
    ),
    Line(
        "block look-up tables",
        f"+stage=block_lut superspace=mobilew block=stage1 {FITTED} {IMAGENET}",
        "`block=all` makes all; `paths.lut=<folder>` says where",
    ),
    Line(
        "block latencies of a published platform",
        "+stage=fit_latency superspace=mobilew platform=pixel4 source=block_lut/mobilew",
        "from the published tables; `exact=<JSON of blocks>` for vnni",
    ),
    Line(
        "space search: ageing evolution under 15 and 20 ms",
        f"{SEARCH} recipe.space_search.method=ageing",
        "without `method` a better search, in seconds",
    ),
    Line(
        "score of given spaces",
        f"{SEARCH} space=[mobilew-122222-155400,mobilew-332160-134200]",
    ),
    Line("supernet, fp32", f"experiment=mobilew/supernet {IMAGENET}", "validated every 5 epochs"),
    Line("supernet, INT8 (LSQ+)", f"experiment=mobilew/supernet_int8 {IMAGENET}"),
    Line(
        "subnet search: evolution within a latency window",
        f"+stage=subnet_search model=spaceevo@pixel4 {RELEASED} {FITTED} "
        f"latency_constraint=20 recipe.subnet_search.method=published recipe.subnet_search.delta_ms=5 {IMAGENET}",
        "without `method` the whole front in one search",
    ),
    Line("top-1 of a published subnet", f"+stage=evaluate model=SEQnet@pixel4-A0 {RELEASED} {IMAGENET}"),
    Line(
        "top-1 of subnets of a supernet",
        f"+stage=evaluate model=spaceevo@pixel4 subnet=[max,min] {RELEASED} data.calibration_batches=32 {IMAGENET}",
        "`subnet=` takes encodings, published names, `max`, `min`",
    ),
    Line("cost of a subnet", "+stage=cost model=SEQnet@pixel4-A0"),
    Line(
        "latency of a subnet",
        "+stage=predict_latency model=SEQnet@pixel4-A0 platform=pixel4 platform.unknown_blocks=fitted",
    ),
    Line("ONNX and TFLite files", f"+stage=export model=SEQnet@pixel4-A0 {RELEASED} format=[onnx,tflite] {IMAGENET}"),
    Line(
        "files without weights (`--skip_weights`)",
        "+stage=export model=SEQnet@pixel4-A0 weights=random format=[onnx,tflite]",
        "no images are needed",
    ),
    Line("latency of the files here", "+stage=benchmark model=SEQnet@pixel4-A0 platform=ort_cpu"),
    Line(
        "downstream finetuning, INT8",
        f"+stage=finetune model=SEQnet@pixel4-A0 {RELEASED} data=cifar10",
        "`recipe.finetune.freeze_body=true` trains the classifier alone",
    ),
    Line(
        "released weights as ours",
        "+stage=convert model=spaceevo@pixel4 checkpoint=lsq.pth paths.checkpoints=/path/to/checkpoints",
        "`paths.checkpoints` is where all jobs keep and look for networks",
    ),
)

HEAD = """# From the published scripts

What the published scripts do, in their order, and the command here, without `python -m spaceevo`. Every line is
run by `tests/e2e/test_published_commands.py` on small things: a small superspace for the published one, a synthetic
file of the released form for `lsq.pth`. This page is written by `python -m tests.e2e.published_commands`.

| published | here | |
|---|---|---|
"""
TAIL = """
Under zsh quote words with brackets or `#`. `-m` before the words sweeps; several processes are
`torchrun --nproc-per-node 8 -m spaceevo … trainer=ddp` ([guide](guide.md#full-size)). Released files lie anywhere:
`checkpoint=` names one. `latency_constraint`, `space`, `subnet` and `block` take one value or a list.

**Pixel 4.** The published tables have no stem, stage0 and head. `fit_latency` takes them to cost what the searched
blocks tell, says how far that is off for families of blocks left out (`other_families_error_percent`), and
`platform.unknown_blocks=fitted` predicts by it; `platform.fixed_latency_ms` sets them where you know better
([figures](../experiments/fit_latency)).
"""

SMALL = {
    "experiment=mobilew/teacher": "+stage=teacher superspace=digits quant=deploy",
    "experiment=mobilew/block_kd_int8": "+stage=block_kd superspace=digits quant=deploy",
    "experiment=mobilew/block_kd": "+stage=block_kd superspace=digits quant=off",
    "experiment=mobilew/supernet_int8": "+stage=supernet superspace=digits space=digits-012-010 quant=deploy",
    "experiment=mobilew/supernet": "+stage=supernet superspace=digits space=digits-012-010 quant=off",
    "superspace=mobilew": "superspace=digits",
    "model=spaceevo@pixel4": "superspace=digits space=digits-012-010",
    "model=SEQnet@pixel4-A0": "superspace=digits space=digits-012-010 subnet=min",
    "space=[mobilew-122222-155400,mobilew-332160-134200]": "space=[digits-012-010,digits-111-000]",
}
"""What a test takes instead of the words of full size."""


def small(line: Line) -> list[str]:
    """Return the words of a line on small things; what lies somewhere is the test's to replace."""
    words = " ".join(SMALL.get(word, word) for word in line.ours.split()).split()
    return list({key(word): word for word in words}.values())  # the last of each counts


def page() -> str:
    """Write the page."""
    rows = (f"| {line.published} | `{line.ours}` | {line.note} |" for line in LINES)
    return HEAD + "\n".join(rows) + "\n" + TAIL


def key(word: str) -> str:
    """Return what an override sets."""
    return re.split("=", word.lstrip("+"), maxsplit=1)[0]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
