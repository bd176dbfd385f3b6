"""Trains a few steps on digits in however many processes it is started as, norms frozen, and prints what it saw.

`processes.py {block_kd,supernet} FOLDER IMAGES_PER_PROCESS`, alone or under torchrun.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

from spaceevo.lit.block_kd import BlockKdModule, Student
from spaceevo.lit.datamodule import ImageFolderDataModule
from spaceevo.lit.digits import write_digits
from spaceevo.lit.guard import LossWatch
from spaceevo.lit.module import Callback, MultiPassModule, Recipe, Trainer
from spaceevo.lit.supernet import SupernetModule
from spaceevo.lit.transforms import ImageTransform
from spaceevo.nn.calibrate import recalibrate
from spaceevo.nn.student import BlockStudent
from spaceevo.nn.supernet import Supernet
from spaceevo.quant.quantizer import DEPLOY
from spaceevo.space.description import parse_space, superspace
from spaceevo.space.encoding import SubnetSpec
from spaceevo.teacher import Teacher

RECIPE = Recipe(1, lambda groups: torch.optim.SGD(groups, lr=0.005, momentum=0.9), lr_batch_size=16)


class Recorded(SupernetModule):
    """Keeps the losses of each step, averaged over processes, and the subnets sampled."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(Supernet(parse_space("digits-012-010")), RECIPE, 3, 0.1, 0.0)
        self.sampled: list[str] = []
        sample = self.supernet.sample

        def recorded(generator: torch.Generator | Random) -> SubnetSpec:
            spec = sample(generator)
            self.sampled.append(str(spec))
            return spec

        self.supernet.sample = recorded  # type: ignore[method-assign]


def block_kd() -> BlockKdModule:
    """Two students under a small random teacher."""
    torch.manual_seed(0)
    widths = [3, 8, 12, 16]
    layers = [nn.Conv2d(cin, cout, 3, 2, 1) for cin, cout in zip(widths, widths[1:], strict=False)]
    teacher = Teacher(nn.Sequential(*layers), {"stage0": "0", "stage1": "1", "stage2": "2"})
    digits = superspace("digits")
    students: dict[str, Student] = {}
    for source, stage, index, channels in (("stage0", "stage1", 2, (8, 12)), ("stage1", "stage2", 1, (12, 16))):
        network = BlockStudent(digits.stage_space(stage, index), channels, DEPLOY)
        students[f"{stage}_{index}"] = Student(network, (source, stage))
    return BlockKdModule(students, teacher, (24, 32), RECIPE, 3, "teacher")


class FrozenNorms(Callback):
    """Norms use their running statistics: batches of different size then give one result."""

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, index: int) -> None:
        for norm in (child for child in module.modules() if isinstance(child, nn.BatchNorm2d)):
            norm.eval()


def main(kind: str, folder: Path, images: int) -> None:
    """Train, then write the losses and a hash of the weights."""
    data = ImageFolderDataModule(
        root=folder / "digits",
        transform=ImageTransform(size=32, resize=32, flip=False),
        batch_size=images,
        holdout=100,
        calibration_batches=4,
        calibration_batch_size=16,
        prepare=write_digits,
    )
    module: MultiPassModule = Recorded() if kind == "supernet" else block_kd()
    seen: list[dict[str, float]] = []

    class Noting(LossWatch):
        def check(self, losses: Mapping[str, float], step: int) -> None:
            seen.append(dict(losses))

    module.watch = Noting(module.recipe.guard)
    size = int(os.environ.get("WORLD_SIZE", 1))
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=4,
        accelerator="cpu",
        devices=size,
        strategy="ddp" if size > 1 else "auto",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FrozenNorms()],
    )
    trainer.fit(module, data)
    weights = torch.cat([p.detach().flatten() for p in module.network.parameters()])
    rate = module.lr_schedulers().base_lrs[0]
    found = {
        "losses": seen,
        "weights": weights[::97].tolist(),
        "rate": rate,
        "sampled": getattr(module, "sampled", []),
    }
    if isinstance(module, BlockKdModule):
        found["figures"] = module.evaluate(data.calibration_images(), list(data.held_out()))
    else:
        supernet = module.network
        assert isinstance(supernet, Supernet)
        supernet.activate_min()
        supernet.requires_grad_(False)
        recalibrate(supernet, data.calibration_images(), supernet)
        found["figures"] = {"mean": {"mean": float(supernet(next(iter(data.held_out()))[0]).mean())}}
    (folder / f"{kind}_{size}_{trainer.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
